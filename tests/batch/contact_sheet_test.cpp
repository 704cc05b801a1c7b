#include "batch/contact_sheet.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "expect_error.h"
#include "image/jpeg.h"
#include "image/output_file.h"
#include "image/png.h"
#include "image/read_picture.h"
#include "plain_image.h"
#include "temp_folder.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;

constexpr Color kBackground = {0x20, 0x20, 0x20};

fs::path write_png(const TempFolder& folder, const std::string& name, const Image& image) {
  write_file_atomically(folder / name, encode_png(image.width, image.height, image.rgb, {}));
  return folder / name;
}

TEST(ContactSheet, Layouts) {
  struct Case {
    std::int64_t count, columns, expected_columns, expected_rows, cell;
  };
  for (const Case& c :
       {Case{1, 0, 1, 1, 256}, Case{2, 0, 2, 1, 256}, Case{5, 0, 3, 2, 256}, Case{9, 0, 3, 3, 256},
        Case{10, 0, 4, 3, 256}, Case{7, 2, 2, 4, 256}, Case{3, 8, 3, 1, 256},
        Case{1000, 0, 32, 32, 194}, Case{1000, 1, 1, 1000, 8}}) {
    const ContactSheetLayout layout = layout_contact_sheet(c.count, {.columns = c.columns});
    EXPECT_EQ(layout.columns, c.expected_columns) << c.count;
    EXPECT_EQ(layout.rows, c.expected_rows) << c.count;
    EXPECT_EQ(layout.cell, c.cell) << c.count;
    EXPECT_EQ(layout.width, layout.columns * (layout.cell + 8) + 8);
    EXPECT_EQ(layout.height, layout.rows * (layout.cell + 8) + 8);
    EXPECT_LE(layout.width * layout.height, std::int64_t{40} << 20);
    EXPECT_LE(layout.height, 16384);
  }
  expect_error(ErrorKind::kUsage, "100000 pictures in 1 columns",
               [] { layout_contact_sheet(100000, {.columns = 1}); });
  expect_error(ErrorKind::kUsage, "cells of 0", [] { layout_contact_sheet(1, {.cell = 0}); });
  expect_error(ErrorKind::kUsage, "0 pictures", [] { layout_contact_sheet(0, {}); });
}

TEST(ContactSheet, PicturesStandInTheirCells) {
  const TempFolder folder;
  const Color red = {200, 10, 20};
  const Color green = {10, 180, 30};
  const Color blue = {30, 40, 210};
  const std::vector<fs::path> pictures = {write_png(folder, "a.png", plain(64, 64, red)),
                                          write_png(folder, "b.png", plain(64, 32, green)),
                                          write_png(folder, "c.png", plain(16, 64, blue))};
  EXPECT_TRUE(write_contact_sheet(pictures, folder / "sheet.png", {.cell = 32, .gap = 4}).empty());
  const Image sheet = read_picture(folder / "sheet.png");
  ASSERT_EQ(sheet.width, 2 * 36 + 4);
  ASSERT_EQ(sheet.height, 2 * 36 + 4);
  // What every pixel should be: plain colours stay themselves.
  for (std::int64_t y = 0; y < sheet.height; ++y) {
    for (std::int64_t x = 0; x < sheet.width; ++x) {
      Color expected = kBackground;
      if (x >= 4 && x < 36 && y >= 4 && y < 36) expected = red;
      if (x >= 40 && x < 72 && y >= 12 && y < 28) expected = green;
      if (x >= 16 && x < 24 && y >= 40 && y < 72) expected = blue;
      ASSERT_EQ(color_at(sheet, x, y), expected) << x << ", " << y;
    }
  }
  EXPECT_EQ(folder.entries(), 4);  // no temporary file
}

TEST(ContactSheet, CellsAreNoLargerThanThePictures) {
  const TempFolder folder;
  const auto a = write_png(folder, "a.png", plain(20, 10, {1, 2, 3}));
  const auto b = write_png(folder, "b.png", plain(8, 30, {1, 2, 3}));
  write_contact_sheet({a, b}, folder / "sheet.png");
  const Image sheet = read_picture(folder / "sheet.png");
  EXPECT_EQ(sheet.width, 2 * 38 + 8);
  EXPECT_EQ(sheet.height, 38 + 8);
}

TEST(ContactSheet, WhatCannotBeReadGetsACross) {
  const TempFolder folder;
  const Color red = {200, 10, 20};
  const auto whole = write_png(folder, "a.png", plain(64, 64, red));
  folder.write("broken.png", folder.read("a.png").substr(0, 80));
  const auto problems = write_contact_sheet({folder / "none.png", folder / "broken.png", whole},
                                            folder / "sheet.png", {.columns = 3});
  ASSERT_EQ(problems.size(), 2U);
  EXPECT_NE(problems[0].find("none.png"), std::string::npos) << problems[0];
  EXPECT_NE(problems[1].find("broken.png"), std::string::npos) << problems[1];
  const Image sheet = read_picture(folder / "sheet.png");
  for (const std::int64_t cell : {0, 1}) {
    const std::int64_t left = 8 + cell * 72;
    for (const std::int64_t at : {0, 20, 32, 63}) {  // both diagonals
      EXPECT_EQ(color_at(sheet, left + at, 8 + at), (Color{0xa0, 0xa0, 0xa0}));
      EXPECT_EQ(color_at(sheet, left + 63 - at, 8 + at), (Color{0xa0, 0xa0, 0xa0}));
    }
    EXPECT_EQ(color_at(sheet, left + 32, 8), (Color{0x48, 0x48, 0x48}));
  }
  EXPECT_EQ(color_at(sheet, 8 + 2 * 72, 8), red);
}

TEST(ContactSheet, ExtensionDecidesTheFormat) {
  const TempFolder folder;
  const auto a = write_png(folder, "a.png", plain(16, 16, {9, 9, 9}));
  write_contact_sheet({a}, folder / "sheet.jpg");
  EXPECT_EQ(folder.read("sheet.jpg").substr(0, 3), "\xff\xd8\xff");
  expect_error(ErrorKind::kUsage, "sheet.gif", [&] { write_contact_sheet({a}, "sheet.gif"); });
  expect_error(ErrorKind::kUsage, "no pictures",
               [&] { write_contact_sheet({}, folder / "none.png"); });
  expect_error(ErrorKind::kIo, "gone", [&] { write_contact_sheet({a}, folder / "gone/x.png"); });
  EXPECT_EQ(folder.entries(), 2);
}

}  // namespace
}  // namespace steadyflux
