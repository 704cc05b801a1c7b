#include "image/png.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

#include "base/file.h"
#include "base/utf8.h"
#include "image/stb_pixels.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

constexpr std::array<std::uint8_t, 8> kSignature = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
constexpr std::size_t kHeaderEnd = 8 + 12 + 13;  // signature and IHDR
constexpr std::size_t kMaxText = 64u << 20;
constexpr std::size_t kMaxFile = 1u << 30;
constexpr std::size_t kMaxKeyword = 79;

constexpr std::array<std::uint32_t, 256> make_crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t n = 0; n < 256; ++n) {
    std::uint32_t c = n;
    for (int bit = 0; bit < 8; ++bit) c = (c & 1) != 0 ? 0xedb88320u ^ (c >> 1) : c >> 1;
    table[n] = c;
  }
  return table;
}
constexpr std::array<std::uint32_t, 256> kCrcTable = make_crc_table();

// The two ends of an 8-bit world: PNG's tEXt is Latin-1, everything else here is UTF-8.
std::string utf8_from_latin1(std::string_view text) {
  std::string utf8;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x80) {
      utf8 += c;
    } else {
      utf8 += static_cast<char>(0xc0 | (byte >> 6));
      utf8 += static_cast<char>(0x80 | (byte & 0x3f));
    }
  }
  return utf8;
}

// Nothing if the text has characters beyond Latin-1, or controls that tEXt should not hold (all
// below U+0020 but newline, and U+007F to U+009F). `utf8` is valid.
std::optional<std::string> latin1_from_utf8(std::string_view utf8) {
  std::string latin1;
  for (std::size_t i = 0; i < utf8.size(); ++i) {
    unsigned code = static_cast<unsigned char>(utf8[i]);
    if (code >= 0x80) {
      if (code != 0xc2 && code != 0xc3) return std::nullopt;
      code = ((code & 0x3) << 6) | (static_cast<unsigned char>(utf8[++i]) & 0x3fu);
    }
    if ((code < 0x20 && code != '\n') || (code >= 0x7f && code < 0xa0)) return std::nullopt;
    latin1 += static_cast<char>(code);
  }
  return latin1;
}

void append_u32(std::vector<std::uint8_t>& out, std::uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) {
    out.push_back(static_cast<std::uint8_t>(value >> shift));
  }
}

void append_chunk(std::vector<std::uint8_t>& out, std::string_view type, std::string_view data) {
  append_u32(out, static_cast<std::uint32_t>(data.size()));
  const std::size_t begin = out.size();
  out.insert(out.end(), type.begin(), type.end());
  out.insert(out.end(), data.begin(), data.end());
  append_u32(out, png_crc(std::span(out).subspan(begin)));
}

void append_text(std::vector<std::uint8_t>& out, const char* keyword, const std::string& text,
                 bool latin1_allowed) {
  if (text.empty()) return;
  if (!is_valid_utf8(text) || text.size() > kMaxText - 256) {
    throw Error(ErrorKind::kUsage,
                fmt::format("the text '{}' cannot be written into a PNG: {}", keyword,
                            is_valid_utf8(text) ? "it is longer than 64 MiB" : "it is not UTF-8"));
  }
  const std::string key = keyword;
  const std::optional<std::string> latin1 = latin1_from_utf8(text);
  if (latin1_allowed && latin1) {
    append_chunk(out, "tEXt", key + '\0' + *latin1);
  } else {
    append_chunk(out, "iTXt", key + std::string(5, '\0') + text);  // plain, no language, no title
  }
}

// Walks the chunks of a file that nobody vouches for.
class Reader {
 public:
  Reader(std::span<const std::uint8_t> bytes, const std::string& name)
      : bytes_(bytes), name_(name) {}

  std::map<std::string, std::string> read() {
    if (bytes_.size() < kSignature.size() ||
        !std::equal(kSignature.begin(), kSignature.end(), bytes_.begin())) {
      throw bad("is not a PNG file (its first 8 bytes are others)");
    }
    at_ = kSignature.size();
    bool first = true;
    while (true) {
      const std::string type = next_chunk();
      if (first != (type == "IHDR")) throw bad("has no IHDR as its first and only header");
      first = false;
      if (type == "IHDR" && data_.size() != 13) throw bad("has an IHDR that is not 13 bytes long");
      if (type == "tEXt") read_text();
      if (type == "iTXt") read_international_text();
      if (type == "IEND") return texts_;
    }
  }

 private:
  Error bad(const std::string& what) const {
    return Error(ErrorKind::kBadInput, name_ + ": " + what);
  }

  std::uint32_t u32(std::size_t at) const {
    return std::uint32_t{bytes_[at]} << 24 | std::uint32_t{bytes_[at + 1]} << 16 |
           std::uint32_t{bytes_[at + 2]} << 8 | std::uint32_t{bytes_[at + 3]};
  }

  // Checks the chunk at at_, leaves its content in data_ and steps behind it.
  std::string next_chunk() {
    const std::size_t left = bytes_.size() - at_;
    if (left < 12) {
      throw bad(fmt::format("is cut off: {} bytes at {}, expected a whole chunk", left, at_));
    }
    const std::uint32_t length = u32(at_);
    std::string type(bytes_.begin() + static_cast<std::ptrdiff_t>(at_ + 4),
                     bytes_.begin() + static_cast<std::ptrdiff_t>(at_ + 8));
    const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
    if (!std::all_of(type.begin(), type.end(), is_letter)) {
      throw bad(fmt::format("has a damaged chunk at byte {}: type '{}'", at_, printable(type)));
    }
    if (length > left - 12) {
      throw bad(fmt::format("is cut off: chunk {} at byte {} has {} bytes, {} are left", type, at_,
                            length, left - 12));
    }
    const std::uint32_t found = u32(at_ + 8 + length);
    const std::uint32_t expected = png_crc(bytes_.subspan(at_ + 4, length + 4));
    if (found != expected) {
      throw bad(fmt::format("is damaged: chunk {} at byte {} has checksum {:08x}, expected {:08x}",
                            type, at_, found, expected));
    }
    data_ = {reinterpret_cast<const char*>(bytes_.data()) + at_ + 8, length};
    at_ += 12 + std::size_t{length};
    return type;
  }

  // What stands before the next zero byte of data_, which is taken off.
  std::string_view take_string(const char* what) {
    const std::size_t end = data_.find('\0');
    if (end == std::string_view::npos) {
      throw bad(fmt::format("has a text chunk without an end of its {}", what));
    }
    const std::string_view text = data_.substr(0, end);
    data_.remove_prefix(end + 1);
    return text;
  }

  std::string take_keyword() {
    if (data_.size() > kMaxText) {
      throw bad(fmt::format("has a text chunk of {} bytes, at most 64 MiB are read", data_.size()));
    }
    const std::string_view keyword = take_string("keyword");
    if (keyword.empty() || keyword.size() > kMaxKeyword) {
      throw bad(fmt::format("has a text keyword of {} bytes, expected 1..79", keyword.size()));
    }
    return utf8_from_latin1(keyword);
  }

  void keep(const std::string& keyword, const std::string& text) {
    const auto [entry, is_new] = texts_.try_emplace(keyword, text);
    // A second text under the same name: which one made the picture would be a guess.
    if (!is_new && entry->second != text) {
      throw bad(fmt::format("has two different texts '{}'", printable(keyword)));
    }
  }

  void read_text() {
    const std::string keyword = take_keyword();
    keep(keyword, utf8_from_latin1(data_));
  }

  void read_international_text() {
    const std::string keyword = take_keyword();
    if (data_.size() < 2)
      throw bad(fmt::format("has an iTXt chunk '{}' that ends too early", printable(keyword)));
    const bool compressed = data_[0] != 0;
    data_.remove_prefix(2);
    take_string("language");
    take_string("translated keyword");
    if (compressed) return;
    if (!is_valid_utf8(data_)) {
      throw bad(fmt::format("has an iTXt chunk '{}' that is not UTF-8", printable(keyword)));
    }
    keep(keyword, std::string(data_));
  }

  std::span<const std::uint8_t> bytes_;
  const std::string& name_;
  std::size_t at_ = 0;
  std::string_view data_;
  std::map<std::string, std::string> texts_;
};

}  // namespace

std::uint32_t png_crc(std::span<const std::uint8_t> bytes) {
  std::uint32_t crc = 0xffffffffu;
  for (const std::uint8_t byte : bytes) crc = kCrcTable[(crc ^ byte) & 0xff] ^ (crc >> 8);
  return ~crc;
}

std::vector<std::uint8_t> encode_png(std::int64_t width, std::int64_t height,
                                     std::span<const std::uint8_t> rgb, const PngText& text) {
  std::vector<std::uint8_t> chunks;
  append_text(chunks, kPngParameters, text.parameters, true);
  append_text(chunks, kPngSteadyflux, text.steadyflux, false);
  std::vector<std::uint8_t> png = stb_png(width, height, rgb);
  png.insert(png.begin() + kHeaderEnd, chunks.begin(), chunks.end());
  return png;
}

std::map<std::string, std::string> parse_png_text(std::span<const std::uint8_t> bytes,
                                                  const std::string& name) {
  return Reader(bytes, name).read();
}

std::map<std::string, std::string> read_png_text(const std::filesystem::path& path) {
  const std::string bytes = read_text_file(path, kMaxFile);
  const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.data());
  return parse_png_text({data, bytes.size()}, path.string());
}

}  // namespace steadyflux
