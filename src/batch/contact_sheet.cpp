#include "batch/contact_sheet.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "image/jpeg.h"
#include "image/output_file.h"
#include "image/png.h"
#include "image/read_picture.h"
#include "image/thumbnail.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;

using Color = std::array<std::uint8_t, 3>;

constexpr std::uint8_t kBackground = 0x20;
constexpr Color kMissing = {0x48, 0x48, 0x48};
constexpr Color kCross = {0xa0, 0xa0, 0xa0};

// Of a row or column of `count` cells.
std::int64_t length_of(std::int64_t count, std::int64_t cell, std::int64_t gap) {
  return count * (cell + gap) + gap;
}

class Sheet {
 public:
  explicit Sheet(const ContactSheetLayout& layout) : layout_(layout) {
    image_.width = layout.width;
    image_.height = layout.height;
    image_.rgb.assign(static_cast<std::size_t>(layout.width * layout.height * 3), kBackground);
  }

  // In the middle of its cell.
  void place(std::int64_t index, const Image& thumbnail) {
    const std::int64_t left = left_of(index) + (layout_.cell - thumbnail.width) / 2;
    const std::int64_t top = top_of(index) + (layout_.cell - thumbnail.height) / 2;
    for (std::int64_t y = 0; y < thumbnail.height; ++y) {
      std::copy_n(thumbnail.rgb.data() + y * thumbnail.width * 3, thumbnail.width * 3,
                  pixel(left, top + y));
    }
  }

  void place_cross(std::int64_t index) {
    const std::int64_t cell = layout_.cell;
    const std::int64_t stroke = std::max<std::int64_t>(cell / 64, 1);
    for (std::int64_t y = 0; y < cell; ++y) {
      for (std::int64_t x = 0; x < cell; ++x) {
        const bool on_cross = std::abs(x - y) < stroke || std::abs(x + y - (cell - 1)) < stroke;
        const Color& color = on_cross ? kCross : kMissing;
        std::copy(color.begin(), color.end(), pixel(left_of(index) + x, top_of(index) + y));
      }
    }
  }

  const Image& image() const { return image_; }

 private:
  std::int64_t left_of(std::int64_t index) const {
    return length_of(index % layout_.columns, layout_.cell, layout_.gap);
  }
  std::int64_t top_of(std::int64_t index) const {
    return length_of(index / layout_.columns, layout_.cell, layout_.gap);
  }
  std::uint8_t* pixel(std::int64_t x, std::int64_t y) {
    return image_.rgb.data() + (y * layout_.width + x) * 3;
  }

  ContactSheetLayout layout_;
  Image image_;
};

// The longest side that any of the pictures has; 0 if none can be read.
std::int64_t longest_side(const std::vector<fs::path>& pictures, std::int64_t enough) {
  std::int64_t longest = 0;
  for (const fs::path& picture : pictures) {
    try {
      const PictureSize size = read_picture_size(picture);
      longest = std::max({longest, size.width, size.height});
    } catch (const Error&) {  // said when it is read
    }
    if (longest >= enough) break;
  }
  return longest;
}

}  // namespace

ContactSheetLayout layout_contact_sheet(std::int64_t count, const ContactSheetOptions& options) {
  if (count < 1 || options.cell < 1 || options.gap < 0 || options.columns < 0) {
    throw Error(ErrorKind::kUsage,
                fmt::format("a contact sheet of {} pictures in cells of {} pixels, {} apart, in {} "
                            "columns cannot be made",
                            count, options.cell, options.gap, options.columns));
  }
  ContactSheetLayout layout;
  layout.gap = options.gap;
  layout.columns = options.columns;
  if (layout.columns == 0) {
    while (layout.columns * layout.columns < count) ++layout.columns;
  }
  layout.columns = std::min(layout.columns, count);
  layout.rows = (count + layout.columns - 1) / layout.columns;
  const auto fits = [&](std::int64_t cell) {
    const std::int64_t width = length_of(layout.columns, cell, layout.gap);
    const std::int64_t height = length_of(layout.rows, cell, layout.gap);
    return width <= options.max_side && height <= options.max_side &&
           width * height <= options.max_pixels;
  };
  std::int64_t cell = std::min(options.cell, options.max_side);
  while (cell > 0 && !fits(cell)) --cell;
  if (cell == 0) {
    throw Error(ErrorKind::kUsage,
                fmt::format("a contact sheet cannot hold {} pictures in {} columns: it would have "
                            "more than {} pixels a side or {} in all",
                            count, layout.columns, options.max_side, options.max_pixels));
  }
  layout.cell = cell;
  layout.width = length_of(layout.columns, cell, layout.gap);
  layout.height = length_of(layout.rows, cell, layout.gap);
  return layout;
}

std::vector<std::string> write_contact_sheet(const std::vector<fs::path>& pictures,
                                             const fs::path& output,
                                             const ContactSheetOptions& options) {
  const PictureFormat format = picture_format(output);
  if (pictures.empty()) {
    throw Error(ErrorKind::kUsage,
                fmt::format("{}: there are no pictures for a contact sheet", output.string()));
  }
  ContactSheetOptions fitting = options;
  const std::int64_t longest = longest_side(pictures, options.cell);
  if (longest > 0) fitting.cell = std::min(options.cell, longest);
  const ContactSheetLayout layout =
      layout_contact_sheet(static_cast<std::int64_t>(pictures.size()), fitting);
  Sheet sheet(layout);
  std::vector<std::string> problems;
  for (std::size_t i = 0; i < pictures.size(); ++i) {
    const auto index = static_cast<std::int64_t>(i);
    try {
      sheet.place(index, make_thumbnail(read_picture(pictures[i]), layout.cell));
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::kDoesNotFit) throw;
      problems.emplace_back(error.what());
      sheet.place_cross(index);
    }
  }
  const Image& image = sheet.image();
  write_file_atomically(output, format == PictureFormat::kPng
                                    ? encode_png(image.width, image.height, image.rgb, {})
                                    : encode_jpeg(image.width, image.height, image.rgb, ""));
  return problems;
}

}  // namespace steadyflux
