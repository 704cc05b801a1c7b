#include "image/jpeg.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "expect_error.h"

namespace steadyflux {
namespace {

using Bytes = std::vector<std::uint8_t>;

struct Header {
  std::string comment;
  int width = 0;
  int height = 0;
};

// Walks the segments up to the pixels (SOS).
Header read_header(const Bytes& jpeg) {
  Header header;
  EXPECT_EQ(jpeg[0], 0xff);
  EXPECT_EQ(jpeg[1], 0xd8);
  EXPECT_EQ(jpeg[3], 0xe0) << "JFIF comes first";
  std::size_t at = 2;
  while (at + 4 < jpeg.size() && jpeg[at + 1] != 0xda) {
    EXPECT_EQ(jpeg[at], 0xff) << at;
    const std::size_t length = jpeg[at + 2] * 256u + jpeg[at + 3];
    if (jpeg[at + 1] == 0xfe) {
      header.comment.append(jpeg.begin() + static_cast<std::ptrdiff_t>(at + 4),
                            jpeg.begin() + static_cast<std::ptrdiff_t>(at + 2 + length));
    }
    if (jpeg[at + 1] == 0xc0) {
      header.height = jpeg[at + 5] * 256 + jpeg[at + 6];
      header.width = jpeg[at + 7] * 256 + jpeg[at + 8];
    }
    at += 2 + length;
  }
  EXPECT_EQ(jpeg[jpeg.size() - 2], 0xff);
  EXPECT_EQ(jpeg[jpeg.size() - 1], 0xd9);
  return header;
}

TEST(EncodeJpeg, SizeAndComment) {
  const Header header =
      read_header(encode_jpeg(33, 17, Bytes(33 * 17 * 3, 90), "a \u4e2d\nSteps: 4"));
  EXPECT_EQ(header.width, 33);
  EXPECT_EQ(header.height, 17);
  EXPECT_EQ(header.comment, "a \u4e2d\nSteps: 4");
}

TEST(EncodeJpeg, LongAndEmptyComments) {
  const Bytes rgb(8 * 8 * 3, 1);
  for (const std::size_t size : {0, 65532, 65533, 65534, 200000}) {
    const std::string comment(size, 'c');
    EXPECT_EQ(read_header(encode_jpeg(8, 8, rgb, comment)).comment, comment) << size;
  }
}

TEST(EncodeJpeg, QualityMatters) {
  Bytes rgb;
  for (int i = 0; i < 64 * 64 * 3; ++i) rgb.push_back(static_cast<std::uint8_t>(i * i >> 3));
  EXPECT_LT(encode_jpeg(64, 64, rgb, "", 30).size(), encode_jpeg(64, 64, rgb, "").size());
}

TEST(EncodeJpeg, RefusesWhatCannotBe) {
  expect_error(ErrorKind::kUsage, "65535", [] { encode_jpeg(65536, 1, Bytes(65536 * 3), ""); });
  expect_error(ErrorKind::kInternal, "2 x 2", [] { encode_jpeg(2, 2, Bytes(11), ""); });
  expect_error(ErrorKind::kInternal, "quality", [] { encode_jpeg(1, 1, Bytes(3), "", 0); });
}

}  // namespace
}  // namespace steadyflux
