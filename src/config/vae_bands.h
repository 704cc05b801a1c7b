// How the VAE cuts its layers into rows. Written once, for those who compute (src/vae) and those
// who foretell what it takes (src/memory).
//
// Every convolution is called on units: so many rows that they hold about kVaeUnitPositions
// positions, depending on the size of the layer and on who computes. A band is what is prepared at
// once, one or more units. So whatever the bands are, each convolution sees the same shapes and the
// same values, and the picture has the same bits.
#pragma once

#include <algorithm>
#include <cstdint>

namespace steadyflux {

constexpr std::int64_t kVaeUnitPositions = 8192;
constexpr std::int64_t kVaeDeviceUnitPositions = 16384;  // enough to keep a graphics card busy
constexpr std::int64_t kVaeQueryPositions = 2048;        // of the attention, at once
constexpr std::int64_t kVaeMomentValues = std::int64_t{1} << 21;  // summed up at once on a device

// Rows of a unit of a layer whose output is height x width: even, all units but the last the same.
inline std::int64_t vae_unit_rows(std::int64_t height, std::int64_t width, bool on_device) {
  const auto positions = on_device ? kVaeDeviceUnitPositions : kVaeUnitPositions;
  const auto units = (height * width + positions - 1) / positions;
  const auto rows = (height + units - 1) / units;
  return rows + rows % 2;
}

// Rows of a band: whole units of about band_bytes, at least one; `row_bytes` of the layer's input.
inline std::int64_t vae_band_rows(std::int64_t height, std::int64_t unit_rows,
                                  std::int64_t row_bytes, std::int64_t band_bytes) {
  const auto units = std::max<std::int64_t>(1, band_bytes / (row_bytes * unit_rows));
  return std::min(height, units <= height / unit_rows ? units * unit_rows : height);
}

// Rows of the attention's input that ask at once.
inline std::int64_t vae_query_rows(std::int64_t height, std::int64_t width) {
  return std::clamp<std::int64_t>(kVaeQueryPositions / width, 1, height);
}

// Rows whose sums are taken at once on a device.
inline std::int64_t vae_moment_rows(std::int64_t width, std::int64_t channels) {
  return std::max<std::int64_t>(1, kVaeMomentValues / (width * channels));
}

}  // namespace steadyflux
