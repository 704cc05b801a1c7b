#include "memory/vae_footprint.h"

#include <algorithm>
#include <optional>

#include "config/flash_attention.h"
#include "config/vae_bands.h"
#include "config/widened.h"

namespace steadyflux {
namespace {

constexpr std::int64_t kFp32 = 4;

// Bytes in one memory, now and at most.
struct Meter {
  std::int64_t now = 0;
  std::int64_t peak = 0;

  void change(std::int64_t bytes) {
    now += bytes;
    peak = std::max(peak, now);
  }
};

// A tensor, from its making to the end of its scope.
class Held {
 public:
  Held(Meter& meter, std::int64_t bytes) : meter_(meter), bytes_(bytes) { meter_.change(bytes_); }
  ~Held() { meter_.change(-bytes_); }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

 private:
  Meter& meter_;
  std::int64_t bytes_;
};

struct Size {
  std::int64_t height, width, channels;
  std::int64_t values() const { return height * width * channels; }
};

// Channels that go in and out of the decoder's up block `index`.
struct UpChannels {
  UpChannels(const AutoencoderKlConfig& config, std::size_t index)
      : in(at(config, index == 0 ? 0 : index - 1)), out(at(config, index)) {}
  static std::int64_t at(const AutoencoderKlConfig& config, std::size_t index) {
    return config.block_out_channels[config.block_out_channels.size() - 1 - index];
  }
  std::int64_t in, out;
};

// Names and order are those of src/vae: autoencoder_kl.cpp, autoencoder_kl_encoder.cpp, blocks.cpp,
// row_bands.cpp.
class VaeTape {
 public:
  VaeTape(const AutoencoderKlConfig& config, std::int64_t element_size, std::int64_t band_bytes,
          bool has_device, bool park_on_host, bool widened)
      : config_(config),
        element_size_(element_size),
        band_bytes_(band_bytes),
        has_device_(has_device),
        parked_(has_device && park_on_host),
        widened_(widened) {}

  VaeFootprint decode(std::int64_t latent_h, std::int64_t latent_w) {
    const auto factor = config_.scale_factor();
    const Held pictures(planes(),
                        bytes({latent_h * factor, latent_w * factor, config_.out_channels}));
    const auto blocks = config_.block_out_channels.size();
    x_ = {latent_h, latent_w, config_.latent_channels};
    {
      const Held shifted(computing(), bytes(x_));
      { const Held scaled(computing(), bytes(x_)); }
      if (config_.use_post_quant_conv) const Held convolved(computing(), bytes(x_));
    }
    {
      const Held z(planes(), bytes(x_));
      convolve_first(config_.block_out_channels.back());
    }
    resnet(x_.channels);
    if (config_.mid_block_add_attention) attention();
    resnet(x_.channels);
    for (std::size_t i = 0; i < blocks; ++i) {
      const auto out = UpChannels(config_, i).out;
      for (std::int64_t j = 0; j <= config_.layers_per_block; ++j) resnet(out);
      if (i + 1 < blocks) upsample();
    }
    convolve(x_, config_.out_channels, Then::kLast);
    return finish();
  }

  VaeFootprint encode(std::int64_t height, std::int64_t width) {
    const auto factor = config_.scale_factor();
    const auto blocks = config_.block_out_channels.size();
    x_ = {height, width, config_.in_channels};
    const Held pictures(computing(), bytes(x_));
    const Held moments(computing(),
                       bytes({height / factor, width / factor, 2 * config_.latent_channels}));
    {
      const Held picture(planes(), bytes(x_));
      convolve_first(config_.block_out_channels.front());
    }
    for (std::size_t i = 0; i < blocks; ++i) {
      for (std::int64_t j = 0; j < config_.layers_per_block; ++j) {
        resnet(config_.block_out_channels[i]);
      }
      if (i + 1 < blocks) downsample();
    }
    resnet(x_.channels);
    if (config_.mid_block_add_attention) attention();
    resnet(x_.channels);
    convolve(x_, 2 * config_.latent_channels, Then::kLast);
    return finish();
  }

 private:
  enum class Then { kPut, kAdd, kAddShortcut, kLast };  // what becomes of a convolution's rows

  VaeFootprint finish() {
    plane_.reset();
    return {0, device_.peak, host_.peak, band_rows_, tiled_};
  }

  Meter& computing() { return has_device_ ? device_ : host_; }
  Meter& planes() { return parked_ || !has_device_ ? host_ : device_; }
  std::int64_t bytes(const Size& size) const { return size.values() * element_size_; }

  // Rows taken over for their sums.
  void moments(const Size& rows) {
    if (!has_device_ || element_size_ == kFp32) return;
    const auto count = std::min(rows.height, vae_moment_rows(rows.width, rows.channels));
    const Held values(computing(), count * rows.width * rows.channels * kFp32);
  }

  void fetch(const Size& rows) {
    if (parked_) const Held copy(computing(), bytes(rows));
  }

  // A convolution's input, output and weights in fp32, and what the library lays out of them.
  void widen(const Size& in, const Size& out, std::int64_t taps = 9) {
    if (!widened_) return;
    const auto weights = in.channels * out.channels * taps;
    const Held values(computing(), kFp32 * (in.values() + out.values() + 2 * weights));
  }

  void convolve(const Size& in, std::int64_t out_channels, Then then) {
    const auto unit = vae_unit_rows(in.height, in.width, has_device_);
    const auto band =
        vae_band_rows(in.height, unit, in.width * in.channels * element_size_, band_bytes_);
    if (band < in.height) tiled_ = true;
    if (in.values() >= most_values_) {
      most_values_ = in.values();
      band_rows_ = band;
    }
    const Held window(computing(), bytes({band + 2, in.width, in.channels}));
    const Size rows = {std::min(unit, in.height), in.width, out_channels};
    widen({rows.height + 2, in.width, in.channels}, rows);
    const Held y(computing(), bytes(rows));
    if (then == Then::kLast) return;
    if (then == Then::kAdd) fetch(rows);
    if (then == Then::kAddShortcut) {
      const Size x_rows = {rows.height, rows.width, x_.channels};
      const Held x_copy(computing(), parked_ ? bytes(x_rows) : 0);
      const Held shortcut(computing(), bytes(rows));
    }
    moments(rows);
  }

  void convolve_first(std::int64_t channels) {
    const Size y = {x_.height, x_.width, channels};
    plane_.emplace(planes(), bytes(y));
    convolve(x_, channels, Then::kPut);
    x_ = y;
  }

  void resnet(std::int64_t channels) {
    const Size h = {x_.height, x_.width, channels};
    const auto held = bytes(h);
    planes().change(held);
    convolve(x_, channels, Then::kPut);
    convolve(h, channels, channels == x_.channels ? Then::kAdd : Then::kAddShortcut);
    planes().change(-held);
    if (channels == x_.channels) return;
    plane_.reset();  // h takes its place
    plane_.emplace(planes(), held);
    x_ = h;
  }

  void attention() {
    const Size rows = {vae_query_rows(x_.height, x_.width), x_.width, x_.channels};
    const Held k(computing(), bytes(x_)), v(computing(), bytes(x_));
    const Held fetched(computing(), parked_ ? bytes(rows) : 0);
    const Held normed(computing(), bytes(rows));
    const Held h(computing(), bytes(rows));  // or keys or values of the rows
    {
      const Held q(computing(), bytes(rows)), heads(computing(), bytes(rows));
      const auto positions = x_.height * x_.width;
      const Held wide(computing(), widened_ ? widened_attention_bytes(1, rows.height * rows.width,
                                                                      positions, x_.channels)
                                            : 0);
      const bool packed = !has_device_ && element_size_ != kFp32 && !widened_;
      const Held packed_kv(computing(), packed ? flash_attention_bytes(positions, x_.channels) : 0);
    }
    fetch(rows);
    moments(rows);
  }

  void upsample() {
    const Size y = {2 * x_.height, 2 * x_.width, x_.channels};
    const auto held = bytes(y);
    planes().change(held);
    {
      const auto weights = y.channels * y.channels;  // of one tap
      const Held sums(computing(), 16 * weights * element_size_);
      { const Held taps_and_sums(computing(), 6 * weights * kFp32); }
      const auto count = std::min(vae_unit_rows(y.height, y.width, has_device_), y.height) / 2;
      const Held window(computing(), bytes({count + 2, x_.width, x_.channels}));
      const Size rows = {2 * count, y.width, y.channels};
      const Held unit(computing(), bytes(rows));
      const Size at_place = {count, x_.width + 1, y.channels};
      {
        widen({count + 1, x_.width, x_.channels}, at_place, 4);
        const Held place(computing(), bytes(at_place));
      }
      moments(rows);
    }
    planes().change(-held);
    plane_.reset();
    plane_.emplace(planes(), held);
    x_ = y;
  }

  void downsample() {
    const Size y = {x_.height / 2, x_.width / 2, x_.channels};
    const auto held = bytes(y);
    planes().change(held);
    {
      const auto unit = vae_unit_rows(y.height, y.width, has_device_);
      const Size row = {2, x_.width + 1, x_.channels};
      const auto band = vae_band_rows(y.height, unit, bytes(row), band_bytes_);
      if (band < y.height) tiled_ = true;
      const Held window(computing(), bytes({2 * band + 1, x_.width + 1, x_.channels}));
      const Size rows = {std::min(unit, y.height), y.width, y.channels};
      widen({2 * rows.height + 1, x_.width + 1, x_.channels}, rows);
      const Held convolved(computing(), bytes(rows));
      moments(rows);
    }
    planes().change(-held);
    plane_.reset();
    plane_.emplace(planes(), held);
    x_ = y;
  }

  const AutoencoderKlConfig& config_;
  std::int64_t element_size_, band_bytes_;
  bool has_device_, parked_;
  bool widened_;
  Meter device_, host_;
  Size x_{};                   // what lies between two layers
  std::optional<Held> plane_;  // and its tensor
  std::int64_t most_values_ = 0, band_rows_ = 0;
  bool tiled_ = false;
};

std::int64_t conv_values(std::int64_t in, std::int64_t out, std::int64_t kernel) {
  return in * out * kernel * kernel + out;
}

std::int64_t resnet_values(std::int64_t in, std::int64_t out) {
  return 2 * in + conv_values(in, out, 3) + 2 * out + conv_values(out, out, 3) +
         (in != out ? conv_values(in, out, 1) : 0);
}

}  // namespace

VaeFootprint vae_decode_footprint(const AutoencoderKlConfig& config, std::int64_t latent_h,
                                  std::int64_t latent_w, std::int64_t element_size,
                                  std::int64_t band_bytes, bool has_device, bool park_on_host,
                                  bool widened) {
  auto footprint = VaeTape(config, element_size, band_bytes, has_device, park_on_host, widened)
                       .decode(latent_h, latent_w);
  footprint.weight_bytes = vae_decoder_weight_bytes(config, element_size);
  return footprint;
}

VaeFootprint vae_encode_footprint(const AutoencoderKlConfig& config, std::int64_t height,
                                  std::int64_t width, std::int64_t element_size,
                                  std::int64_t band_bytes, bool has_device, bool park_on_host,
                                  bool widened) {
  auto footprint = VaeTape(config, element_size, band_bytes, has_device, park_on_host, widened)
                       .encode(height, width);
  footprint.weight_bytes = vae_encoder_weight_bytes(config, element_size);
  return footprint;
}

std::int64_t vae_encoder_weight_bytes(const AutoencoderKlConfig& config,
                                      std::int64_t element_size) {
  const auto moments = 2 * config.latent_channels;
  auto channels = config.block_out_channels.front();
  auto values = conv_values(config.in_channels, channels, 3);
  const auto blocks = config.block_out_channels.size();
  for (std::size_t i = 0; i < blocks; ++i) {
    const auto out = config.block_out_channels[i];
    values +=
        resnet_values(channels, out) + (config.layers_per_block - 1) * resnet_values(out, out);
    if (i + 1 < blocks) values += conv_values(out, out, 3);
    channels = out;
  }
  values += 2 * resnet_values(channels, channels);
  if (config.mid_block_add_attention)
    values += 2 * channels + 4 * conv_values(channels, channels, 1);
  values += 2 * channels + conv_values(channels, moments, 3);
  if (config.use_quant_conv) values += conv_values(moments, moments, 1);
  return values * element_size;
}

std::int64_t vae_decoder_weight_bytes(const AutoencoderKlConfig& config,
                                      std::int64_t element_size) {
  const auto first = config.block_out_channels.back(), last = config.block_out_channels.front();
  auto values = conv_values(config.latent_channels, first, 3) + 2 * resnet_values(first, first);
  if (config.use_post_quant_conv) {
    values += conv_values(config.latent_channels, config.latent_channels, 1);
  }
  if (config.mid_block_add_attention) values += 2 * first + 4 * conv_values(first, first, 1);
  const auto blocks = config.block_out_channels.size();
  for (std::size_t i = 0; i < blocks; ++i) {
    const UpChannels channels(config, i);
    values += resnet_values(channels.in, channels.out) +
              config.layers_per_block * resnet_values(channels.out, channels.out);
    if (i + 1 < blocks) values += conv_values(channels.out, channels.out, 3);
  }
  return (values + 2 * last + conv_values(last, config.out_channels, 3)) * element_size;
}

std::int64_t vae_largest_weight_bytes(const AutoencoderKlConfig& config,
                                      std::int64_t element_size) {
  const auto channels =
      *std::max_element(config.block_out_channels.begin(), config.block_out_channels.end());
  return channels * channels * 9 * element_size;
}

std::int64_t vae_smallest_band_bytes(const AutoencoderKlConfig& config, std::int64_t element_size) {
  const auto channels =
      *std::min_element(config.block_out_channels.begin(), config.block_out_channels.end());
  return kVaeUnitPositions * channels * element_size;
}

}  // namespace steadyflux
