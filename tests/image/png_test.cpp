// The PNG writer against a second, independent reading of the format (CRC bit by bit, chunks walked
// here), and the text reader against files cut and damaged at every place.
#include "image/png.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "expect_error.h"
#include "temp_folder.h"

namespace steadyflux {
namespace {

using Bytes = std::vector<std::uint8_t>;

Bytes gradient(std::int64_t width, std::int64_t height) {
  Bytes rgb;
  for (std::int64_t y = 0; y < height; ++y) {
    for (std::int64_t x = 0; x < width; ++x) {
      rgb.push_back(static_cast<std::uint8_t>(x * 7));
      rgb.push_back(static_cast<std::uint8_t>(y * 5));
      rgb.push_back(static_cast<std::uint8_t>(x + y));
    }
  }
  return rgb;
}

std::uint32_t slow_crc(const Bytes& bytes) {
  std::uint32_t crc = 0xffffffffu;
  for (const std::uint8_t byte : bytes) {
    crc ^= byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) * 0xedb88320u);
  }
  return ~crc;
}

std::uint32_t u32(const Bytes& bytes, std::size_t at) {
  return std::uint32_t{bytes[at]} << 24 | std::uint32_t{bytes[at + 1]} << 16 |
         std::uint32_t{bytes[at + 2]} << 8 | std::uint32_t{bytes[at + 3]};
}

struct Chunk {
  std::string type;
  std::string data;
};

std::vector<Chunk> chunks_of(const Bytes& png) {
  std::vector<Chunk> chunks;
  std::size_t at = 8;
  while (at < png.size()) {
    const std::uint32_t length = u32(png, at);
    const auto begin = png.begin() + static_cast<std::ptrdiff_t>(at);
    const Bytes covered(begin + 4, begin + 8 + length);
    EXPECT_EQ(u32(png, at + 8 + length), slow_crc(covered)) << "at " << at;
    chunks.push_back({std::string(covered.begin(), covered.begin() + 4),
                      std::string(covered.begin() + 4, covered.end())});
    at += 12 + length;
  }
  EXPECT_EQ(at, png.size());
  return chunks;
}

void append_chunk(Bytes& out, const std::string& type, const std::string& data) {
  Bytes covered(type.begin(), type.end());
  covered.insert(covered.end(), data.begin(), data.end());
  const auto put = [&out](std::uint32_t value) {
    for (int shift = 24; shift >= 0; shift -= 8) {
      out.push_back(static_cast<std::uint8_t>(value >> shift));
    }
  };
  put(static_cast<std::uint32_t>(data.size()));
  out.insert(out.end(), covered.begin(), covered.end());
  put(slow_crc(covered));
}

// A PNG around `middle` chunks, as far as the text reader looks.
Bytes png_with(const std::vector<Chunk>& middle) {
  Bytes png = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
  append_chunk(png, "IHDR", std::string("\0\0\0\1\0\0\0\1\10\2\0\0\0", 13));
  for (const Chunk& chunk : middle) append_chunk(png, chunk.type, chunk.data);
  append_chunk(png, "IEND", "");
  return png;
}

std::string zero_joined(std::initializer_list<std::string> parts) {
  std::string joined;
  for (const std::string& part : parts) joined += part + '\0';
  joined.pop_back();
  return joined;
}

TEST(EncodePng, HeaderChunksAndChecksums) {
  const Bytes png = encode_png(33, 17, gradient(33, 17), {"a cat", "{\"seed\":1}"});
  const std::vector<Chunk> chunks = chunks_of(png);
  ASSERT_EQ(chunks.size(), 5u);
  EXPECT_EQ(chunks[0].type, "IHDR");
  EXPECT_EQ(chunks[0].data, std::string("\0\0\0\x21\0\0\0\x11\10\2\0\0\0", 13));  // 8 bit RGB
  EXPECT_EQ(chunks[1].type, "tEXt");
  EXPECT_EQ(chunks[1].data, zero_joined({"parameters", "a cat"}));
  EXPECT_EQ(chunks[2].type, "iTXt");
  EXPECT_EQ(chunks[2].data, "steadyflux" + std::string(5, '\0') + "{\"seed\":1}");
  EXPECT_EQ(chunks[3].type, "IDAT");
  EXPECT_EQ(chunks[4].type, "IEND");
}

TEST(EncodePng, NoTextNoChunk) {
  EXPECT_EQ(chunks_of(encode_png(4, 4, gradient(4, 4), {})).size(), 3u);
}

TEST(EncodePng, SameInputSameBytes) {
  const Bytes rgb = gradient(64, 48);
  EXPECT_EQ(encode_png(64, 48, rgb, {"a", "b"}), encode_png(64, 48, rgb, {"a", "b"}));
}

TEST(EncodePng, Latin1IsTextAndTheRestInternational) {
  const auto first_text = [](const std::string& parameters) {
    return chunks_of(encode_png(2, 2, gradient(2, 2), {parameters, ""}))[1];
  };
  EXPECT_EQ(first_text("caf\u00e9\nx").type, "tEXt");
  EXPECT_EQ(first_text("caf\u00e9\nx").data, zero_joined({"parameters", "caf\xe9\nx"}));
  for (const char* text : {"\u4e2d", "\U0001F600", "\u0100", "tab\t", "\u0085"}) {
    EXPECT_EQ(first_text(text).type, "iTXt") << text;
  }
}

TEST(EncodePng, TextComesBack) {
  for (const std::string text :
       {"plain", "caf\u00e9 \u00ff", "\u4e2d\u6587 \U0001F600", "a\nb\n"}) {
    const auto read = parse_png_text(
        encode_png(2, 2, gradient(2, 2), {text, "{\"p\":\"" + text + "\"}"}), "x.png");
    EXPECT_EQ(read.at(kPngParameters), text);
    EXPECT_EQ(read.at(kPngSteadyflux), "{\"p\":\"" + text + "\"}");
    EXPECT_EQ(read.size(), 2u);
  }
}

TEST(EncodePng, RefusesWhatCannotBe) {
  expect_error(ErrorKind::kInternal, "3 x 3", [] { encode_png(3, 3, gradient(3, 2), {}); });
  expect_error(ErrorKind::kInternal, "0 x 0", [] { encode_png(0, 0, {}, {}); });
  expect_error(ErrorKind::kInternal, "-1 x -1", [] { encode_png(-1, -1, gradient(1, 1), {}); });
  expect_error(ErrorKind::kUsage, "not UTF-8", [] {
    encode_png(2, 2, gradient(2, 2), {"\xff", ""});
  });
}

TEST(ReadPngText, EveryTruncationIsRefused) {
  const Bytes png = encode_png(8, 8, gradient(8, 8), {"a \u4e2d", "{}"});
  for (std::size_t size = 0; size < png.size(); ++size) {
    SCOPED_TRACE(size);
    expect_error(ErrorKind::kBadInput, "x.png", [&] {
      const Bytes cut(png.begin(), png.begin() + static_cast<std::ptrdiff_t>(size));
      parse_png_text(cut, "x.png");
    });
  }
}

TEST(ReadPngText, EveryFlippedBitIsRefused) {
  const Bytes png = encode_png(8, 8, gradient(8, 8), {"abc", "{}"});
  for (std::size_t bit = 0; bit < png.size() * 8; ++bit) {
    SCOPED_TRACE(bit);
    Bytes damaged = png;
    damaged[bit / 8] = static_cast<std::uint8_t>(damaged[bit / 8] ^ (1u << (bit % 8)));
    expect_error(ErrorKind::kBadInput, "x.png", [&] { parse_png_text(damaged, "x.png"); });
  }
}

TEST(ReadPngText, HostileLengthsAndKeywords) {
  const auto refuse = [](const Bytes& png, const std::string& part) {
    expect_error(ErrorKind::kBadInput, part, [&] { parse_png_text(png, "x.png"); });
  };
  refuse(png_with({{"tEXt", "no zero byte"}}), "without an end of its keyword");
  refuse(png_with({{"tEXt", zero_joined({"", "text"})}}), "keyword of 0 bytes");
  refuse(png_with({{"tEXt", zero_joined({std::string(80, 'k'), "text"})}}), "keyword of 80 bytes");
  refuse(png_with({{"iTXt", zero_joined({"key", ""})}}), "ends too early");
  refuse(png_with({{"iTXt", zero_joined({"key", "", "", "no language end"})}}), "language");
  refuse(png_with({{"iTXt", zero_joined({"key", "", "", "", "no title end"})}}),
         "translated keyword");
  refuse(png_with({{"iTXt", zero_joined({"key", "", "", "", "", "\xc0\x80"})}}), "not UTF-8");
  refuse(png_with({{"tEXt", zero_joined({"key", "1"})}, {"tEXt", zero_joined({"key", "2"})}}),
         "two different texts 'key'");
  refuse(png_with({{"IHDR", std::string(13, '\0')}}), "IHDR");
  refuse(png_with({{"t\x1bXt", "x"}}), "\\x1B");

  Bytes huge = png_with({});
  for (int i = 0; i < 4; ++i) huge[8 + static_cast<std::size_t>(i)] = 0xff;
  refuse(huge, "4294967295 bytes");

  Bytes no_header = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
  append_chunk(no_header, "IEND", "");
  refuse(no_header, "IHDR");
}

TEST(ReadPngText, TextAbove64MiBIsRefused) {
  const std::string text = zero_joined({"key", std::string((64u << 20) + 1, 'x')});
  const Bytes png = png_with({{"tEXt", text}});
  expect_error(ErrorKind::kBadInput, "at most 64 MiB", [&] { parse_png_text(png, "x.png"); });
}

TEST(ReadPngText, OtherPeoplesFiles) {
  Bytes png = png_with({{"tEXt", zero_joined({"Software", "x"})},
                        {"tEXt", zero_joined({"Software", "x"})},  // twice the same: harmless
                        {"zTXt", zero_joined({"packed", "", "?"})},
                        {"iTXt", "alsopacked" + std::string("\0\1\0\0\0zz", 7)},
                        {"iTXt", "titled" + std::string("\0\0\0de\0Titel\0text", 16)},
                        {"tEXt", std::string("empty\0", 6)}});
  for (const char c : std::string("trail")) png.push_back(static_cast<std::uint8_t>(c));
  const auto read = parse_png_text(png, "x.png");
  const std::map<std::string, std::string> expected = {
      {"Software", "x"}, {"titled", "text"}, {"empty", ""}};
  EXPECT_EQ(read, expected);
}

TEST(ReadPngText, FromFiles) {
  TempFolder folder;
  const Bytes png = encode_png(2, 2, gradient(2, 2), {"hello", ""});
  folder.write("a.png", std::string(png.begin(), png.end()));
  EXPECT_EQ(read_png_text(folder / "a.png").at(kPngParameters), "hello");
  folder.write("text.png", "not a picture");
  expect_error(ErrorKind::kBadInput, "text.png", [&] { read_png_text(folder / "text.png"); });
  expect_error(ErrorKind::kBadInput, "none.png", [&] { read_png_text(folder / "none.png"); });
  expect_error(ErrorKind::kBadInput, folder.path().string(), [&] { read_png_text(folder.path()); });
}

}  // namespace
}  // namespace steadyflux
