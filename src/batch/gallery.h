// A page to look through a batch with: one HTML file with a grid of thumbnails, prompts and
// settings. Thumbnails are inside of it, the full pictures behind links; there are no scripts, and
// nothing is fetched, so that it opens from a disk as well as from a server.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace steadyflux {

struct GalleryItem {
  std::filesystem::path picture;
  std::string prompt;                                         // UTF-8
  std::vector<std::pair<std::string, std::string>> settings;  // name and value, in this order
};

struct GalleryOptions {
  std::string title = "Pictures";
  std::int64_t thumbnail = 256;  // longest side, pixels
  int quality = 85;              // of the thumbnails' JPEG, 1..100
};

// Throws Error{kUsage} unless `path` ends in .html or .htm.
void check_gallery_path(const std::filesystem::path& path);

// Writes the page atomically. Up to 40 KB a picture are held until it is written; pictures are read
// one at a time. One that cannot be read has a place that says so, and a line in the result. Throws
// Error: kUsage by check_gallery_path, kIo.
std::vector<std::string> write_gallery(const std::vector<GalleryItem>& items,
                                       const std::filesystem::path& output,
                                       const GalleryOptions& options = {});

}  // namespace steadyflux
