// All pictures of a batch on one: a grid of thumbnails in cells of equal size. Pictures are read
// one at a time, so memory is that of the sheet, whatever their number.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace steadyflux {

struct ContactSheetOptions {
  std::int64_t cell = 256;   // longest side of a thumbnail, pixels
  std::int64_t gap = 8;      // between cells and around them, pixels
  std::int64_t columns = 0;  // 0: as many as make the sheet nearly square
  // Cells become smaller where the sheet would be larger than these.
  std::int64_t max_side = 16384;                     // pixels
  std::int64_t max_pixels = std::int64_t{40} << 20;  // 120 MiB, and as much again while compressing
};

struct ContactSheetLayout {
  std::int64_t columns = 0;
  std::int64_t rows = 0;
  std::int64_t cell = 0;    // pixels
  std::int64_t gap = 0;     // pixels
  std::int64_t width = 0;   // of the sheet, pixels
  std::int64_t height = 0;  // pixels
};
// `count` is at least 1. Throws Error{kUsage} if not even cells of one pixel fit, or options make
// no sense.
ContactSheetLayout layout_contact_sheet(std::int64_t count, const ContactSheetOptions& options);

// Writes the sheet atomically, as PNG or JPEG by the extension of `output`; pictures stand in rows,
// in their order. Where all pictures are smaller than a cell, cells are as small as the largest. A
// file that cannot be read gets a grey cell with a cross, and a line in the result. Throws Error:
// kUsage if there are no pictures or the extension is another one, kIo.
std::vector<std::string> write_contact_sheet(const std::vector<std::filesystem::path>& pictures,
                                             const std::filesystem::path& output,
                                             const ContactSheetOptions& options = {});

}  // namespace steadyflux
