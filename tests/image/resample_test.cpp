// What Pillow 13.0.0 makes of the same bytes: resize((w, h), Image.LANCZOS or BICUBIC),
// convert("L").
#include "image/resample.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace steadyflux {
namespace {

// Values as uneven as noise, so that every weight counts.
Image uneven_picture(std::int64_t width, std::int64_t height) {
  Image image{width, height, {}};
  for (std::int64_t i = 0; i < width * height * 3; ++i) {
    image.rgb.push_back(static_cast<std::uint8_t>((i * i * 7 + i * 31 + i / 5 * 53) % 256));
  }
  return image;
}

struct Case {
  std::int64_t from_width, from_height, width, height;
  std::vector<std::uint8_t> expected;  // RGB
};

const std::vector<Case> kCases = {
    {5, 4, 7, 5, {0,   11,  84,  64,  157, 90,  207, 232, 188, 241, 94,  252, 153, 75,  59,  159,
                  124, 29,  228, 154, 136, 104, 110, 155, 152, 165, 111, 192, 218, 61,  155, 169,
                  74,  128, 58,  114, 96,  118, 129, 78,  226, 119, 157, 109, 71,  108, 190, 45,
                  48,  246, 19,  64,  154, 56,  147, 32,  143, 184, 88,  199, 167, 194, 201, 141,
                  46,  86,  82,  157, 72,  33,  197, 86,  71,  76,  136, 144, 86,  151, 191, 98,
                  190, 197, 81,  225, 175, 74,  255, 191, 98,  200, 164, 96,  84,  97,  79,  70,
                  92,  161, 181, 38,  137, 198, 0,   63,  140}},  // larger
    {9, 7, 5, 4, {79,  151, 107, 130, 142, 99,  180, 100, 138, 176, 142, 151, 121, 98,  93,  75,
                  116, 151, 40,  133, 66,  150, 111, 87,  156, 129, 157, 209, 101, 83,  131, 84,
                  138, 103, 119, 140, 78,  209, 112, 191, 168, 110, 219, 71,  126, 106, 179, 176,
                  126, 109, 143, 160, 199, 86,  121, 87,  55,  133, 81,  192}},  // smaller
    {6, 20, 5, 5, {85,  126, 111, 150, 124, 127, 152, 98,  147, 164, 108, 91,  81,  154, 95,  102,
                   109, 151, 188, 105, 98,  158, 137, 101, 132, 162, 116, 119, 117, 133, 107, 120,
                   135, 144, 119, 168, 137, 155, 133, 132, 202, 101, 133, 97,  109, 79,  75,  99,
                   118, 114, 157, 132, 127, 146, 131, 122, 194, 121, 112, 119, 152, 184, 163, 173,
                   140, 136, 87,  122, 157, 141, 92,  101, 153, 66,  112}},  // much lower: columns
                                                                             // first
    {20, 6, 5, 5, {139, 123, 111, 172, 136, 96,  63,  146, 92,  170, 117, 152, 112, 98,  157, 143,
                   117, 90,  153, 89,  125, 98,  151, 85,  192, 146, 122, 156, 112, 142, 98,  145,
                   174, 75,  126, 109, 159, 168, 97,  195, 130, 170, 123, 133, 109, 111, 113, 127,
                   110, 93,  154, 108, 100, 131, 139, 149, 135, 87,  132, 197, 129, 101, 141, 156,
                   131, 98,  136, 144, 104, 122, 83,  164, 208, 115, 132}},  // much narrower: rows
                                                                             // first
    {4, 9, 6, 3, {114, 69,  130, 113, 137, 139, 141, 191, 148, 186, 137, 135, 140, 144,
                  80,  86,  177, 43,  102, 114, 116, 118, 87,  101, 157, 77,  98,  178,
                  120, 131, 114, 113, 156, 57,  87,  162, 103, 154, 75,  127, 159, 115,
                  164, 148, 132, 169, 111, 74,  141, 101, 76,  119, 107, 104}},  // wider and lower:
                                                                                 // columns first
    {1, 1, 3, 2, {0, 38, 90, 0, 38, 90, 0, 38, 90, 0, 38, 90, 0, 38, 90, 0, 38, 90}},
    {1, 5, 2, 2, {117, 131, 138, 117, 131, 138, 193, 126, 108, 193, 126, 108}},
    {5, 1, 2, 2, {117, 131, 138, 193, 126, 108, 117, 131, 138, 193, 126, 108}},
    {6, 5, 1, 1, {131, 117, 117}},
    {4, 2, 4, 3, {0,   23,  86,  157, 248, 124, 243, 88,  255, 134, 80,  13,
                  103, 97,  105, 154, 190, 138, 202, 152, 143, 121, 139, 17,
                  232, 171, 124, 150, 131, 152, 161, 216, 25,  107, 198, 21}},
};

const std::vector<Case> kBicubicCases = {
    {5, 4, 7, 5, {0,   21,  85,  78,  157, 103, 191, 218, 169, 240, 97,  246, 154, 87,  60,  160,
                  120, 41,  217, 157, 126, 109, 114, 145, 150, 172, 101, 176, 210, 64,  148, 169,
                  73,  129, 68,  115, 105, 114, 131, 86,  220, 127, 147, 106, 82,  106, 185, 54,
                  70,  223, 39,  77,  146, 69,  144, 55,  142, 170, 91,  185, 161, 179, 195, 142,
                  58,  83,  80,  158, 71,  37,  192, 81,  68,  82,  128, 145, 88,  153, 188, 93,
                  192, 196, 90,  223, 177, 74,  255, 184, 97,  186, 160, 101, 101, 95,  77,  73,
                  90,  155, 180, 43,  134, 193, 0,   66,  148}},  // larger
    {9, 7, 5, 4, {80,  145, 103, 126, 142, 107, 180, 106, 134, 175, 141, 147, 124, 101, 97,  74,
                  114, 149, 47,  134, 71,  149, 115, 88,  156, 128, 146, 210, 99,  83,  129, 86,
                  139, 102, 122, 140, 88,  203, 113, 183, 158, 116, 213, 75,  129, 105, 178, 175,
                  127, 112, 144, 157, 194, 85,  121, 92,  57,  133, 85,  189}},  // smaller
    {6, 20, 5, 5, {89,  128, 114, 148, 122, 127, 154, 100, 144, 161, 110, 94,  81,  150, 95,  101,
                   108, 148, 185, 105, 101, 158, 138, 102, 133, 165, 116, 118, 121, 133, 106, 117,
                   139, 137, 121, 163, 137, 156, 135, 136, 192, 107, 127, 95,  105, 84,  82,  100,
                   120, 114, 154, 134, 124, 149, 132, 124, 189, 126, 108, 118, 150, 182, 166, 169,
                   141, 136, 94,  122, 151, 142, 92,  105, 147, 72,  111}},  // much lower: columns
                                                                             // first
    {4, 9, 6, 3, {113, 76,  129, 119, 134, 138, 139, 184, 142, 182, 135, 125, 139, 146,
                  80,  89,  171, 44,  102, 113, 113, 123, 93,  101, 152, 82,  99,  173,
                  123, 138, 118, 111, 154, 62,  89,  158, 105, 151, 81,  129, 156, 115,
                  157, 149, 134, 163, 109, 74,  141, 103, 81,  119, 109, 104}},  // wider and lower
    {1, 5, 2, 2, {118, 133, 137, 118, 133, 137, 187, 122, 105, 187, 122, 105}},
    {6, 5, 1, 1, {132, 116, 117}},
};

void expect_cases(const std::vector<Case>& cases,
                  Image (*resample)(const Image&, std::int64_t, std::int64_t)) {
  for (const auto& test : cases) {
    SCOPED_TRACE(std::to_string(test.from_width) + " x " + std::to_string(test.from_height) +
                 " to " + std::to_string(test.width) + " x " + std::to_string(test.height));
    const auto found =
        resample(uneven_picture(test.from_width, test.from_height), test.width, test.height);
    EXPECT_EQ(found.width, test.width);
    EXPECT_EQ(found.height, test.height);
    EXPECT_EQ(found.rgb, test.expected);
  }
}

TEST(ResampleLanczos, IsPillowsBitForBit) { expect_cases(kCases, resample_lanczos); }

TEST(ResampleBicubic, IsPillowsBitForBit) { expect_cases(kBicubicCases, resample_bicubic); }

TEST(ResampleLanczos, OfTheSameSizeChangesNothing) {
  const auto image = uneven_picture(7, 6);
  EXPECT_EQ(resample_lanczos(image, 7, 6).rgb, image.rgb);
}

TEST(ResampleLanczos, OfOneColourStaysThat) {
  const Image image{3, 2, std::vector<std::uint8_t>(18, 201)};
  for (const auto& [width, height] : {std::pair{1, 1}, {64, 1}, {1, 64}, {17, 33}}) {
    const auto count = static_cast<std::size_t>(width * height * 3);
    EXPECT_EQ(resample_lanczos(image, width, height).rgb, std::vector<std::uint8_t>(count, 201));
  }
}

TEST(ToGrey, IsPillowsL) {
  const std::vector<std::uint8_t> expected = {33, 200, 157, 95,  167, 146, 175, 144, 79,  164,
                                              82, 152, 89,  113, 165, 124, 133, 83,  148, 62};
  EXPECT_EQ(to_grey(uneven_picture(5, 4)), expected);
  EXPECT_EQ(to_grey({1, 1, {255, 255, 255}}), std::vector<std::uint8_t>{255});
}

}  // namespace
}  // namespace steadyflux
