#include "image/resample.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace steadyflux {
namespace {

constexpr double kLobes = 3;  // of Lanczos' window, to either side
// Weights are whole numbers of 2^-22: 8 bits of values, 2 bits for what they may overshoot.
constexpr int kWeightBits = 32 - 8 - 2;
constexpr std::int64_t kChannels = 3;

double sinc(double x) {
  if (x == 0) return 1;
  const double angle = x * std::numbers::pi;
  return std::sin(angle) / angle;
}

double lanczos(double x) { return x >= -kLobes && x < kLobes ? sinc(x) * sinc(x / kLobes) : 0; }

double bicubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

struct Filter {
  double (*weight)(double);
  double reach;  // to either side
};
constexpr Filter kLanczos = {lanczos, kLobes};
constexpr Filter kBicubic = {bicubic, 2};

// What one place of the result is made of.
struct Window {
  std::int64_t begin = 0;
  std::vector<std::int32_t> weights;
};

// One for each of `out` places along a side of `in`. Where the picture shrinks the window grows, so
// that every value counts.
std::vector<Window> make_windows(const Filter& filter, std::int64_t in, std::int64_t out) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double widening = std::max(scale, 1.0);
  const double reach = filter.reach * widening;
  std::vector<Window> windows;
  for (std::int64_t i = 0; i < out; ++i) {
    const double center = (static_cast<double>(i) + 0.5) * scale;
    const auto begin = std::max<std::int64_t>(std::llround(center - reach), 0);
    const auto end = std::min<std::int64_t>(std::llround(center + reach), in);
    std::vector<double> weights;
    double sum = 0;
    for (auto at = begin; at < end; ++at) {
      weights.push_back(filter.weight((static_cast<double>(at) - center + 0.5) / widening));
      sum += weights.back();
    }
    Window window{begin, {}};
    for (const double weight : weights) {
      const double scaled = weight / sum * static_cast<double>(1 << kWeightBits);
      window.weights.push_back(static_cast<std::int32_t>(std::lround(scaled)));
    }
    windows.push_back(std::move(window));
  }
  return windows;
}

std::uint8_t to_byte(std::int64_t sum) {
  return static_cast<std::uint8_t>(std::clamp<std::int64_t>(sum >> kWeightBits, 0, 255));
}

// Along a side whose places are `step` bytes apart.
std::uint8_t weigh(const std::uint8_t* values, std::int64_t step, const Window& window) {
  std::int64_t sum = std::int64_t{1} << (kWeightBits - 1);
  values += window.begin * step;
  for (const auto weight : window.weights) {
    sum += std::int64_t{*values} * weight;
    values += step;
  }
  return to_byte(sum);
}

Image resample_rows(const Filter& filter, const Image& image, std::int64_t width) {
  if (width == image.width) return image;
  const auto windows = make_windows(filter, image.width, width);
  Image result{width, image.height, {}};
  result.rgb.reserve(static_cast<std::size_t>(width * image.height * kChannels));
  for (std::int64_t y = 0; y < image.height; ++y) {
    const auto* row = image.rgb.data() + y * image.width * kChannels;
    for (const auto& window : windows) {
      for (std::int64_t c = 0; c < kChannels; ++c) {
        result.rgb.push_back(weigh(row + c, kChannels, window));
      }
    }
  }
  return result;
}

Image resample_columns(const Filter& filter, const Image& image, std::int64_t height) {
  if (height == image.height) return image;
  const auto windows = make_windows(filter, image.height, height);
  const auto row = image.width * kChannels;
  Image result{image.width, height, {}};
  result.rgb.reserve(static_cast<std::size_t>(height * row));
  for (const auto& window : windows) {
    for (std::int64_t i = 0; i < row; ++i) {
      result.rgb.push_back(weigh(image.rgb.data() + i, row, window));
    }
  }
  return result;
}

Image resample(const Filter& filter, const Image& image, std::int64_t width, std::int64_t height) {
  // Each pass rounds to bytes, so their order is Pillow's (found by trying it): rows first, unless
  // the height shrinks by more than twice what the width does.
  if (height < image.height && 2 * (image.width - width) < image.height - height) {
    return resample_rows(filter, resample_columns(filter, image, height), width);
  }
  return resample_columns(filter, resample_rows(filter, image, width), height);
}

}  // namespace

Image resample_lanczos(const Image& image, std::int64_t width, std::int64_t height) {
  return resample(kLanczos, image, width, height);
}

Image resample_bicubic(const Image& image, std::int64_t width, std::int64_t height) {
  return resample(kBicubic, image, width, height);
}

std::vector<std::uint8_t> to_grey(const Image& image) {
  std::vector<std::uint8_t> grey;
  grey.reserve(image.rgb.size() / kChannels);
  for (std::size_t i = 0; i + 2 < image.rgb.size(); i += kChannels) {
    const auto sum = 19595u * image.rgb[i] + 38470u * image.rgb[i + 1] + 7471u * image.rgb[i + 2];
    grey.push_back(static_cast<std::uint8_t>((sum + 0x8000u) >> 16));
  }
  return grey;
}

}  // namespace steadyflux
