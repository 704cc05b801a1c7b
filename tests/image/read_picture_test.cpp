#include "image/read_picture.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "base/file.h"
#include "expect_error.h"
#include "image/jpeg.h"
#include "image/png.h"
#include "temp_folder.h"

namespace steadyflux {
namespace {

using Bytes = std::vector<std::uint8_t>;

// Soft colours, different in every pixel and channel.
Bytes soft_picture(std::int64_t width, std::int64_t height) {
  Bytes rgb;
  for (std::int64_t y = 0; y < height; ++y) {
    for (std::int64_t x = 0; x < width; ++x) {
      rgb.push_back(static_cast<std::uint8_t>(40 + x * 160 / width));
      rgb.push_back(static_cast<std::uint8_t>(30 + y * 180 / height));
      rgb.push_back(static_cast<std::uint8_t>(200 - (x + y) * 100 / (width + height)));
    }
  }
  return rgb;
}

void write_bytes(const TempFolder& folder, const std::string& name, const Bytes& bytes) {
  folder.write(name, {bytes.begin(), bytes.end()});
}

TEST(ReadPicture, PngComesBackBitForBit) {
  const TempFolder folder;
  const Bytes rgb = soft_picture(37, 19);
  write_bytes(folder, "a.png", encode_png(37, 19, rgb, {.parameters = "p", .steadyflux = "{}"}));
  const Image image = read_picture(folder / "a.png");
  EXPECT_EQ(image.width, 37);
  EXPECT_EQ(image.height, 19);
  EXPECT_EQ(image.rgb, rgb);
}

TEST(ReadPicture, JpegComesBackNearly) {
  const TempFolder folder;
  const Bytes rgb = soft_picture(40, 24);
  // The content decides, not the name.
  write_bytes(folder, "a.png", encode_jpeg(40, 24, rgb, "a comment", 95));
  const Image image = read_picture(folder / "a.png");
  EXPECT_EQ(image.width, 40);
  EXPECT_EQ(image.height, 24);
  ASSERT_EQ(image.rgb.size(), rgb.size());
  for (std::size_t i = 0; i < rgb.size(); ++i) {
    // Quality 95 rounds coefficients to steps of 1 to 10 (the tables of the standard, times 0.1),
    // and soft pictures have few of them.
    ASSERT_LE(std::abs(image.rgb[i] - rgb[i]), 6) << i;
  }
}

TEST(ReadPicture, SizesAreReadFromTheHeader) {
  const TempFolder folder;
  Bytes png = encode_png(37, 19, soft_picture(37, 19), {});
  png.resize(60);  // nothing behind the header is looked at
  write_bytes(folder, "a.png", png);
  write_bytes(folder, "b.jpg", encode_jpeg(40, 24, soft_picture(40, 24), ""));
  EXPECT_EQ(read_picture_size(folder / "a.png").width, 37);
  EXPECT_EQ(read_picture_size(folder / "a.png").height, 19);
  EXPECT_EQ(read_picture_size(folder / "b.jpg").width, 40);
  EXPECT_EQ(read_picture_size(folder / "b.jpg").height, 24);
  folder.write("c.png", "text");
  expect_error(ErrorKind::kBadInput, "c.png: neither",
               [&] { read_picture_size(folder / "c.png"); });
  expect_error(ErrorKind::kBadInput, "none.png", [&] { read_picture_size(folder / "none.png"); });
  expect_error(ErrorKind::kBadInput, "regular", [&] { read_picture_size(folder.path()); });
}

TEST(ReadPicture, WhatIsNoWholePictureIsRefused) {
  const TempFolder folder;
  expect_error(ErrorKind::kBadInput, "none.png: file not found",
               [&] { read_picture(folder / "none.png"); });
  expect_error(ErrorKind::kBadInput, "regular", [&] { read_picture(folder.path()); });
  for (const char* text : {"", "x", "GIF89a", "P6 1 1 255 abc", "\xff\xd8\xff"}) {
    folder.write("other.png", text);
    expect_error(ErrorKind::kBadInput, "other.png", [&] { read_picture(folder / "other.png"); });
  }
}

TEST(ReadPicture, EveryTruncationIsNoticed) {
  const Bytes rgb = soft_picture(16, 8);
  for (const Bytes& whole : {encode_png(16, 8, rgb, {}), encode_jpeg(16, 8, rgb, "")}) {
    for (std::size_t size = 0; size < whole.size(); ++size) {
      expect_error(ErrorKind::kBadInput, "cut", [&] {
        decode_picture({whole.data(), size}, "cut");
      });
    }
    EXPECT_EQ(decode_picture(whole, "whole").width, 16);
  }
}

TEST(ReadPicture, FlippedBitsOfAPngAreNoticed) {
  const Bytes whole = encode_png(16, 8, soft_picture(16, 8), {});
  for (std::size_t at = 0; at < whole.size(); ++at) {
    Bytes damaged = whole;
    damaged[at] ^= 0x10;
    expect_error(ErrorKind::kBadInput, "damaged.png",
                 [&] { decode_picture(damaged, "damaged.png"); });
  }
}

// The seeds of the fuzzer, which Pillow (libwebp) wrote of this picture.
Bytes webp_file(const std::string& name) {
  const auto text =
      read_text_file(STEADYFLUX_SOURCE_DIR "/tests/fuzz/corpus/picture/" + name, 1 << 20);
  return {text.begin(), text.end()};
}

Bytes webp_picture() {
  Bytes rgb;
  for (int y = 0; y < 12; ++y) {
    for (int x = 0; x < 16; ++x) {
      rgb.push_back(static_cast<std::uint8_t>(40 + x * 10));
      rgb.push_back(static_cast<std::uint8_t>(30 + y * 15));
      rgb.push_back(static_cast<std::uint8_t>(200 - (x + y) * 4));
    }
  }
  return rgb;
}

TEST(ReadPicture, WebpComesBack) {
  const auto expected = webp_picture();
  EXPECT_EQ(decode_picture(webp_file("lossless.webp"), "a").rgb, expected);
  for (const char* name : {"lossy.webp", "alpha.webp"}) {
    const auto image = decode_picture(webp_file(name), name);
    ASSERT_EQ(image.width, 16);
    ASSERT_EQ(image.height, 12);
    ASSERT_EQ(image.rgb.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      // Colours have half the resolution: two pixels of this picture are up to 20 apart.
      ASSERT_LE(std::abs(image.rgb[i] - expected[i]), 24) << name << " " << i;
    }
  }
  const TempFolder folder;
  write_bytes(folder, "a.png", webp_file("lossy.webp"));
  EXPECT_EQ(read_picture_size(folder / "a.png").width, 16);
  EXPECT_EQ(read_picture_size(folder / "a.png").height, 12);
}

TEST(ReadPicture, WebpThatIsNoWholePictureIsRefused) {
  for (const char* name : {"lossless.webp", "lossy.webp", "alpha.webp"}) {
    const Bytes whole = webp_file(name);
    for (std::size_t size = 0; size < whole.size(); ++size) {
      expect_error(ErrorKind::kBadInput, "cut", [&] {
        decode_picture({whole.data(), size}, "cut");
      });
    }
  }
  expect_error(ErrorKind::kBadInput, "a.webp: an animation",
               [] { decode_picture(webp_file("animation.webp"), "a.webp"); });
  Bytes huge = webp_file("lossy.webp");
  huge[26] = huge[28] = 0xff;  // width and height, 14 bits each
  huge[27] = huge[29] = 0x3f;
  expect_error(ErrorKind::kBadInput, "more than 512 MiB",
               [&] { decode_picture(huge, "huge.webp"); });
}

// Nothing is allocated for the pixels that a header promises.
TEST(ReadPicture, HugeSizesAreRefusedUnread) {
  for (const std::uint32_t side : {15000U, 60000U}) {
    Bytes png = encode_png(1, 1, Bytes(3), {});
    for (const std::size_t at : {16U, 20U}) {  // IHDR's width and height
      png[at + 2] = static_cast<std::uint8_t>(side >> 8);
      png[at + 3] = static_cast<std::uint8_t>(side);
    }
    const std::uint32_t crc = png_crc({png.data() + 12, 17});
    for (std::size_t i = 0; i < 4; ++i) {
      png[29 + i] = static_cast<std::uint8_t>(crc >> (24 - 8 * i));
    }
    expect_error(ErrorKind::kBadInput, "more than 512 MiB",
                 [&] { decode_picture(png, "huge.png"); });
  }
}

}  // namespace
}  // namespace steadyflux
