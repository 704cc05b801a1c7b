#include "image/thumbnail.h"

#include <gtest/gtest.h>

#include "plain_image.h"

namespace steadyflux {
namespace {

TEST(Thumbnail, SizesKeepTheAspect) {
  struct Case {
    std::int64_t width, height, side, small_width, small_height;
  };
  for (const Case& c :
       {Case{1024, 1024, 256, 256, 256}, Case{1024, 512, 256, 256, 128}, Case{512, 768, 96, 64, 96},
        Case{64, 48, 256, 64, 48}, Case{4096, 16, 256, 256, 1}, Case{16384, 16, 64, 64, 1}}) {
    const ThumbnailSize size = thumbnail_size(c.width, c.height, c.side);
    EXPECT_EQ(size.width, c.small_width) << c.width << " x " << c.height;
    EXPECT_EQ(size.height, c.small_height) << c.width << " x " << c.height;
    const Image small = make_thumbnail(plain(c.width, c.height, {1, 2, 3}), c.side);
    EXPECT_EQ(small.rgb, plain(size.width, size.height, {1, 2, 3}).rgb);
  }
}

TEST(Thumbnail, EveryPlainColorStaysAsItIs) {
  for (int value = 0; value < 256; ++value) {
    // 7 to 3 pixels: areas begin and end within pixels.
    const Image small = make_thumbnail(plain(7, 7, {value, 255 - value, 128}), 3);
    EXPECT_EQ(small.rgb, plain(3, 3, {value, 255 - value, 128}).rgb) << value;
  }
}

TEST(Thumbnail, AveragesLightOverTheArea) {
  // A board of black and white pixels gives off half of the light of white: sRGB 188, not 128.
  Image board = plain(8, 8, {0, 0, 0});
  for (std::size_t i = 0; i < 64; ++i) {
    if ((i / 8 + i) % 2 == 1) continue;
    for (std::size_t c = 0; c < 3; ++c) board.rgb[i * 3 + c] = 255;
  }
  EXPECT_EQ(make_thumbnail(board, 4).rgb, plain(4, 4, {188, 188, 188}).rgb);
  // Three columns to two: each takes half of the one in the middle.
  Image columns = plain(3, 3, {0, 0, 0});
  for (std::size_t y = 0; y < 3; ++y) columns.rgb[(y * 3 + 1) * 3] = 255;  // red
  const Image two = make_thumbnail(columns, 2);
  // A third of the light: 1.055 * (1/3)^(1/2.4) - 0.055 = 0.6125 of 255.
  EXPECT_EQ(color_at(two, 0, 0), (Color{156, 0, 0}));
  EXPECT_EQ(color_at(two, 1, 1), (Color{156, 0, 0}));
}

}  // namespace
}  // namespace steadyflux
