#include "batch/gallery.h"

#include <gtest/gtest.h>

#include <string_view>

#include "expect_error.h"
#include "image/jpeg.h"
#include "image/output_file.h"
#include "image/png.h"
#include "image/read_picture.h"
#include "image/thumbnail.h"
#include "temp_folder.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;

fs::path write_picture(const TempFolder& folder, const fs::path& name, std::int64_t width = 40,
                       std::int64_t height = 20) {
  fs::create_directories((folder / name).parent_path());
  const std::vector<std::uint8_t> rgb(static_cast<std::size_t>(width * height * 3), 120);
  write_file_atomically(folder / name, encode_png(width, height, rgb, {}));
  return folder / name;
}

std::size_t count(const std::string& text, std::string_view part) {
  std::size_t found = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

// What stands between `before` and the next `after`.
std::string between(const std::string& text, std::string_view before, std::string_view after) {
  const auto begin = text.find(before);
  if (begin == std::string::npos) return "(" + std::string(before) + " is not there)";
  const auto from = begin + before.size();
  return text.substr(from, text.find(after, from) - from);
}

std::vector<std::uint8_t> from_base64(const std::string& text) {
  static constexpr std::string_view kLetters =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::vector<std::uint8_t> bytes;
  std::uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    if (c == '=') break;
    bits = bits << 6 | static_cast<std::uint32_t>(kLetters.find(c));
    count += 6;
    if (count >= 8) bytes.push_back(static_cast<std::uint8_t>(bits >> (count -= 8) & 0xff));
  }
  return bytes;
}

TEST(Gallery, HoldsThumbnailsPromptsAndSettings) {
  const TempFolder folder;
  std::vector<GalleryItem> items;
  // Several, so that their JPEGs end in the middle of base64's groups as well as at their end.
  for (const int width : {300, 301, 302, 64}) {
    items.push_back({.picture = write_picture(folder, std::to_string(width) + ".png", width, 150),
                     .prompt = "prompt " + std::to_string(width),
                     .settings = {{"seed", "7"}, {"size", std::to_string(width) + " x 150"}}});
  }
  EXPECT_TRUE(write_gallery(items, folder / "page.html", {.title = "A title"}).empty());
  std::string page = folder.read("page.html");
  EXPECT_EQ(between(page, "<title>", "</title>"), "A title");
  EXPECT_EQ(between(page, "<p class=\"count\">", "</p>"), "4 pictures");
  for (const GalleryItem& item : items) {
    page = page.substr(page.find("<figure>") + 1);
    const std::string name = item.picture.filename().string();
    EXPECT_EQ(between(page, "<a href=\"", "\""), name);
    EXPECT_EQ(between(page, "alt=\"", "\""), item.prompt);
    EXPECT_EQ(between(page, "<p class=\"prompt\" dir=\"auto\">", "</p>"), item.prompt);
    EXPECT_EQ(between(page, "<dt>seed</dt><dd>", "</dd>"), "7");
    EXPECT_EQ(between(page, "<dt>size</dt><dd>", "</dd>"), item.settings[1].second);
    const auto jpeg = from_base64(between(page, "src=\"data:image/jpeg;base64,", "\""));
    const Image thumbnail = decode_picture(jpeg, name);
    const Image picture = read_picture(item.picture);
    const ThumbnailSize size = thumbnail_size(picture.width, picture.height, 256);
    EXPECT_EQ(thumbnail.width, size.width) << name;
    EXPECT_EQ(thumbnail.height, size.height) << name;
    EXPECT_EQ(std::to_string(thumbnail.width), between(page, "width=\"", "\""));
    EXPECT_EQ(std::to_string(thumbnail.height), between(page, "height=\"", "\""));
  }
  EXPECT_EQ(folder.entries(), 5);  // no temporary file
}

TEST(Gallery, NothingFromOutsideBecomesMarkup) {
  const TempFolder folder;
  const std::string hostile = "\"><script>alert('1')</script>&amp;\x01\xff\n</title>";
  const GalleryItem item{.picture = write_picture(folder, "<b>\"&'.png"),
                         .prompt = hostile,
                         .settings = {{hostile, hostile}}};
  write_gallery({item}, folder / "page.html", {.title = hostile});
  const std::string page = folder.read("page.html");
  const std::string escaped =
      "&quot;&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;amp;\xef\xbf\xbd\xef\xbf\xbd\n"
      "&lt;/title&gt;";
  // Title, heading, alt, prompt, setting and its value.
  EXPECT_EQ(count(page, escaped), 6U);
  EXPECT_EQ(count(page, "<script"), 0U);
  EXPECT_EQ(count(page, "</title>"), 1U);
  EXPECT_EQ(count(page, "<b>"), 0U);
  EXPECT_EQ(between(page, "<p class=\"name\">", "</p>"), "&lt;b&gt;&quot;&amp;&#39;.png");
}

TEST(Gallery, LinksAreRelativeToThePage) {
  const TempFolder folder;
  struct Case {
    std::string picture, page, link;
  };
  for (const Case& c :
       {Case{"out/a.png", "out/page.html", "a.png"}, Case{"out/a.png", "page.html", "out/a.png"},
        Case{"out/a.png", "pages/new/page.html", "../../out/a.png"},
        Case{"out/a b#1?100%.png", "page.html", "out/a%20b%231%3F100%25.png"},
        Case{"out/\u00e9:x.png", "out/page.html", "%C3%A9%3Ax.png"},
        Case{"out/\"'<&\n\xff.png", "out/page.html", "%22%27%3C%26%0A%FF.png"}}) {
    const GalleryItem item{
        .picture = write_picture(folder, c.picture), .prompt = "", .settings = {}};
    fs::create_directories((folder / c.page).parent_path());
    write_gallery({item}, folder / c.page);
    EXPECT_EQ(between(folder.read(c.page), "<a href=\"", "\""), c.link);
  }
  // A page and pictures named from the working folder.
  const fs::path before = fs::current_path();
  fs::current_path(folder.path());
  write_gallery({{.picture = "out/a.png", .prompt = "", .settings = {}}}, "here.html");
  fs::current_path(before);
  EXPECT_EQ(between(folder.read("here.html"), "<a href=\"", "\""), "out/a.png");
}

TEST(Gallery, NeedsNothingButItself) {
  const TempFolder folder;
  write_gallery({{.picture = write_picture(folder, "a.png"), .prompt = "x", .settings = {}}},
                folder / "page.htm");
  const std::string page = folder.read("page.htm");
  for (const char* part :
       {"http:", "https:", "//", "<script", "<link", "url(", "@import", "SIDE"}) {
    // base64 has slashes.
    std::string without = page;
    const auto begin = without.find("base64,");
    without.erase(begin, without.find('"', begin) - begin);
    EXPECT_EQ(count(without, part), 0U) << part;
  }
  EXPECT_EQ(count(page, "default-src 'none'"), 1U);
  EXPECT_EQ(count(page, "prefers-color-scheme: dark"), 1U);
  EXPECT_EQ(count(page, "loading=\"lazy\""), 1U);
  EXPECT_EQ(between(page, "<p class=\"count\">", "</p>"), "1 picture");
}

TEST(Gallery, WhatCannotBeReadHasItsPlace) {
  const TempFolder folder;
  const auto problems =
      write_gallery({{.picture = folder / "none.png", .prompt = "gone", .settings = {}},
                     {.picture = write_picture(folder, "a.png"), .prompt = "here", .settings = {}}},
                    folder / "page.html");
  ASSERT_EQ(problems.size(), 1U);
  EXPECT_NE(problems[0].find("none.png"), std::string::npos) << problems[0];
  const std::string page = folder.read("page.html");
  EXPECT_EQ(count(page, "<figure>"), 2U);
  EXPECT_EQ(count(page, "<div class=\"missing\">"), 1U);
  EXPECT_EQ(between(page, "<p class=\"prompt\" dir=\"auto\">", "</p>"), "gone");
}

TEST(Gallery, PathsAreChecked) {
  for (const char* path : {"a.html", "b/c.HTM"}) check_gallery_path(path);
  for (const char* path : {"a.png", "html", "a.html.txt", ""}) {
    expect_error(ErrorKind::kUsage, "written as .html", [&] { check_gallery_path(path); });
  }
  const TempFolder folder;
  expect_error(ErrorKind::kIo, "gone", [&] { write_gallery({}, folder / "gone/page.html"); });
}

}  // namespace
}  // namespace steadyflux
