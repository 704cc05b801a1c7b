// Written against sentencepiece's published sentencepiece_model.proto: ModelProto has pieces (1),
// trainer_spec (2) and normalizer_spec (3); a piece has text (1), score (2) and type (3).
#include "tokenizer/spiece_model.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "base/file.h"
#include "base/utf8.h"
#include "tokenizer/tokenizer_files.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;

struct Field {
  std::uint64_t number = 0;
  int wire_type = 0;        // 0 varint, 1 eight bytes, 2 bytes with a length, 5 four bytes
  std::uint64_t value = 0;  // of types 0, 1 and 5
  std::string_view bytes;   // of type 2
};

// Walks the fields of one protobuf message.
class Message {
 public:
  Message(const fs::path& file, std::string_view bytes) : file_(file), rest_(bytes) {}

  bool next(Field& field) {
    if (rest_.empty()) {
      return false;
    }
    const std::uint64_t key = varint();
    field =
        Field{.number = key >> 3, .wire_type = static_cast<int>(key & 7), .value = 0, .bytes = {}};
    switch (field.wire_type) {
      case 0:
        field.value = varint();
        break;
      case 1:
        field.value = fixed(8);
        break;
      case 2:
        field.bytes = take(varint());
        break;
      case 5:
        field.value = fixed(4);
        break;
      default:
        damaged();
    }
    return true;
  }

 private:
  [[noreturn]] void damaged() const {
    bad_tokenizer_file(file_, "not a sentencepiece model, or cut short");
  }
  std::string_view take(std::uint64_t count) {
    if (count > rest_.size()) {
      damaged();
    }
    const std::string_view taken = rest_.substr(0, static_cast<std::size_t>(count));
    rest_.remove_prefix(taken.size());
    return taken;
  }
  std::uint64_t fixed(std::size_t count) {
    const std::string_view bytes = take(count);
    std::uint64_t number = 0;
    for (std::size_t i = 0; i < count; ++i) {
      number |= static_cast<std::uint64_t>(static_cast<unsigned char>(bytes[i])) << (8 * i);
    }
    return number;
  }
  std::uint64_t varint() {
    std::uint64_t number = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      number |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) {
        return number;
      }
    }
    damaged();
  }

  const fs::path& file_;
  std::string_view rest_;
};

void read_piece(const fs::path& file, std::string_view bytes, SpieceModel& model) {
  constexpr std::uint64_t kControl = 3;
  constexpr std::uint64_t kUserDefined = 4;
  UnigramPiece piece;
  std::uint64_t type = 1;
  Message message(file, bytes);
  for (Field field; message.next(field);) {
    if (field.number == 1 && field.wire_type == 2) {
      piece.text = std::string(field.bytes);
    } else if (field.number == 2 && field.wire_type == 5) {
      const auto bits = static_cast<std::uint32_t>(field.value);
      float score = 0;
      std::memcpy(&score, &bits, sizeof score);
      piece.score = score;
    } else if (field.number == 3 && field.wire_type == 0) {
      type = field.value;
    }
  }
  if (!std::isfinite(piece.score)) {
    bad_tokenizer_file(file, fmt::format("piece {} has no finite score", model.pieces.size()));
  }
  if (!is_valid_utf8(piece.text)) {
    bad_tokenizer_file(file, fmt::format("piece {} is not UTF-8", model.pieces.size()));
  }
  if (type == kControl || type == kUserDefined) {
    model.control.push_back(piece.text);
  }
  model.pieces.push_back(std::move(piece));
}

}  // namespace

SpieceModel read_spiece_model(const fs::path& file) {
  constexpr std::uint64_t kUnigram = 1;
  const std::string content = read_text_file(file);
  SpieceModel model;
  // Trainer and normaliser stand after the pieces: a file without them was cut between two pieces.
  bool has_trainer = false, has_normalizer = false;
  Message message(file, content);
  for (Field field; message.next(field);) {
    if (field.wire_type != 2) {
      continue;
    }
    has_trainer = has_trainer || field.number == 2;
    has_normalizer = has_normalizer || field.number == 3;
    if (field.number == 1) {
      read_piece(file, field.bytes, model);
    } else if (field.number == 2) {
      Message trainer(file, field.bytes);
      for (Field inner; trainer.next(inner);) {
        if (inner.number == 3 && inner.wire_type == 0 && inner.value != kUnigram) {
          bad_tokenizer_file(file, fmt::format("model type {}, expected 1 (unigram)", inner.value));
        }
      }
    } else if (field.number == 3) {
      Message normalizer(file, field.bytes);
      for (Field inner; normalizer.next(inner);) {
        if (inner.number == 2 && inner.wire_type == 2) {
          model.precompiled_charsmap = std::string(inner.bytes);
        }
      }
    }
  }
  if (model.pieces.empty()) {
    bad_tokenizer_file(file, "no pieces; not a sentencepiece model, or cut short");
  }
  if (!has_trainer || !has_normalizer) {
    bad_tokenizer_file(file, "cut short: nothing follows the pieces");
  }
  return model;
}

}  // namespace steadyflux
