#include "memory/plan.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <numeric>

#include "config/row_chunks.h"
#include "config/tiles.h"
#include "config/transfer_sizes.h"
#include "memory/footprint.h"
#include "memory/largest_size.h"
#include "memory/vae_footprint.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

constexpr std::int64_t kMiB = std::int64_t{1} << 20;
constexpr int kLeanestStep = 4;  // PlanOptions::leaner at which nothing is left to give up

// What libtorch, oneDNN and MKL touch in a phase beyond what the process had before: code, threads'
// stacks, compiled kernels, scratch. Measured (docs/memory.md).
constexpr std::int64_t kEncodeOverhead = 30 * kMiB;
constexpr std::int64_t kModulateOverhead = 36 * kMiB;
constexpr std::int64_t kDenoiseOverhead = 42 * kMiB;
constexpr std::int64_t kDecodeOverhead = 46 * kMiB;
// From the first step on, where a sequence is so long that it goes in chunks: products of other
// shapes, for each of which oneDNN compiles kernels and keeps them.
constexpr std::int64_t kChunkKernels = 8 * kMiB;
// Of each thread but the first, in the heap: buffers that are too small to go back one by one.
constexpr std::int64_t kThreadHeap = 2 * kMiB;
constexpr std::int64_t kWarmOverhead = 4 * kMiB;  // of any phase, from the second run on

// On a device; a converting CPU has the chunk too.
constexpr std::int64_t kPinnedBytes = kPinnedBuffers * kPinnedBufferBytes;

// Small tensors that no formula of a device's activations mentions, and their share of the rest.
constexpr std::int64_t kSmallTensors = std::int64_t{64} << 10;
constexpr std::int64_t kSmallShare = 100;  // one part in so many

// What libtorch's operations have between packed and unpacked values, chunk by chunk.
constexpr std::int64_t kUnpackingBytes = 32 * kMiB;

// Rows of weights and of what LoRAs add to them, in fp32, chunk by chunk.
constexpr std::int64_t kMergingBytes = 80 * kMiB;

// A copy from pinned RAM takes this part of the time of reading the same from a disk.
constexpr std::int64_t kHostCopyShare = 8;

// Bands of the decoder, from roomy to lean. More than the first gains no speed.
constexpr std::int64_t kFp32Bytes = 4;
constexpr std::int64_t kBands[] = {64 * kMiB, 32 * kMiB, 16 * kMiB, 8 * kMiB, 4 * kMiB, 1 * kMiB};
constexpr std::int64_t kWholePicture = std::numeric_limits<std::int64_t>::max() / 4;

// The order in which units become resident: first those that every pass wants where others may be
// left out; of the rest, however many there are, they lie evenly among those that are streamed, so
// that reading never pauses. And more room only ever adds units.
std::vector<std::size_t> residency_order(std::size_t count, std::size_t always) {
  // Positions by the bits of their index, reversed (van der Corput's sequence).
  std::size_t bits = 0;
  while ((std::size_t{1} << bits) < count) ++bits;
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < (std::size_t{1} << bits); ++i) {
    std::size_t reversed = 0;
    for (std::size_t bit = 0; bit < bits; ++bit) {
      if (i >> bit & 1) reversed |= std::size_t{1} << (bits - 1 - bit);
    }
    if (reversed < count) order.push_back(reversed);
  }
  std::stable_partition(order.begin(), order.end(),
                        [always](std::size_t unit) { return unit < always; });
  return order;
}

std::int64_t largest_unit(const std::vector<UnitFootprint>& units) {
  std::int64_t largest = 0;
  for (const auto& unit : units) largest = std::max(largest, unit.bytes);
  return largest;
}

std::int64_t file_bytes(const WeightsFootprint& weights) {
  return std::accumulate(
      weights.units.begin(), weights.units.end(), std::int64_t{0},
      [](std::int64_t sum, const UnitFootprint& unit) { return sum + unit.file_bytes; });
}

std::int64_t traffic_of(const PhasePlan& phase) {
  return phase.disk_read_bytes + phase.host_copy_bytes / kHostCopyShare;
}

// What computing may have to wait for. With one buffer it waits for all of it.
std::int64_t waiting(const PhasePlan& phase) {
  const bool hidden = std::all_of(phase.weights.begin(), phase.weights.end(),
                                  [](const WeightsPlan& weights) { return weights.buffers != 1; });
  return (hidden ? 1 : 2) * traffic_of(phase);
}

// Bytes for weights, where they are computed with and in pinned RAM.
struct Room {
  std::int64_t here = 0;
  std::int64_t host = 0;
};

class Planner {
 public:
  Planner(const FluxModel& model, const Workload& workload, const Budget& budget,
          const PlanOptions& options)
      : model_(model),
        workload_(workload),
        budget_(budget),
        options_(options),
        element_(element_size(workload.dtype)) {
    const auto factor = model.vae.scale_factor();
    const auto token = 2 * factor;
    tiles_ = workload.tiles(token);
    tile_len_ = tiles_.tile_height * tiles_.tile_width;
    const auto image_len = tiles_.height * tiles_.width;
    embeds_ =
        (workload.text_len() * model.text_encoder_2.d_model + model.text_encoder.hidden_size) *
        element_;
    parked_embeds_ = workload.num_prompts * embeds_;
    reference_len_ = workload.reference_tokens(token);
    // Where a mask keeps part of a picture, there are the mask, the picture's latents, and noise.
    const auto tokens =
        ((1 + workload.solver_latents) * workload.num_images + 3 * workload.num_masks) * image_len +
        workload.num_references * reference_len_;
    latents_ = (tokens * model.transformer.out_channels +
                workload.num_conditions * image_len * model.transformer.condition_channels()) *
               element_;
    plan_.budget = budget;
    plan_.workload = workload;
  }

  Plan make() {
    plan_.leanest = options_.leaner >= kLeanestStep;
    plan_encode();
    if (workload_.encodes_images()) plan_encode_image();
    plan_modulate_and_denoise();
    plan_decode();
    for (const auto& phase : plan_.phases) {
      plan_.device_peak_bytes = std::max(plan_.device_peak_bytes, phase.device_peak_bytes);
      plan_.ram_peak_bytes = std::max(plan_.ram_peak_bytes, phase.ram_peak_bytes);
      plan_.disk_read_bytes += phase.disk_read_bytes;
      plan_.host_copy_bytes += phase.host_copy_bytes;
    }
    plan_.disk_bytes = disk_bytes();
    plan_.fits = plan_.ram_peak_bytes <= budget_.ram &&
                 (!budget_.has_device || plan_.device_peak_bytes <= budget_.vram);
    return std::move(plan_);
  }

 private:
  bool on_device() const { return budget_.has_device; }
  std::int64_t overhead(std::int64_t of_first_run) const {
    return budget_.warm ? kWarmOverhead : of_first_run;
  }

  // An overhead of the first run, from the first step on.
  std::int64_t with_kernels(std::int64_t of_first_run) const {
    if (on_device()) return of_first_run;
    const auto seq_len = workload_.text_len() + tile_len_ + reference_len_;
    return of_first_run + (workload_.num_threads - 1) * kThreadHeap +
           (seq_len > kGemmRows ? kChunkKernels : 0);
  }

  std::int64_t disk_bytes() const {
    const auto& w = workload_;
    std::int64_t bytes = vae_decoder_weight_bytes(model_.vae, element_size(w.stored.vae.dtype));
    std::vector<WeightsFootprint> parts = {
        clip_weights(model_.text_encoder, w.dtype, w.stored.text_encoder),
        t5_weights(model_.text_encoder_2, w.dtype, w.stored.text_encoder_2),
        modulation_weights(model_.transformer, w.dtype, w.stored.transformer),
        transformer_weights(model_.transformer, w.dtype, w.stored.transformer)};
    if (w.num_redux_images > 0) {
      const auto& redux = model_.redux.value();
      parts.push_back(image_encoder_weights(redux.image_encoder, w.dtype, w.stored.image_encoder));
      parts.push_back(
          image_embedder_weights(redux.image_embedder, w.dtype, w.stored.image_embedder));
    }
    for (const auto& part : parts) {
      bytes += part.fixed_file_bytes + part.table_file_bytes + file_bytes(part);
    }
    return bytes;
  }

  // Adds what is on the computing side and what is in RAM in any case to a phase.
  void add_weights(PhasePlan& phase, const WeightsFootprint& footprint, const StoredWeights& stored,
                   std::int64_t passes, std::int64_t here, std::int64_t host,
                   std::size_t always = 0) const {
    const bool mappable =
        !on_device() && !stored.merged && (stored.packed || stored.dtype == workload_.dtype);
    host += workload_.lora_bytes;
    if (stored.merged) {
      // Four copies in fp32 of a chunk of a matrix, which is no larger than a unit.
      here += std::min(kMergingBytes, largest_unit(footprint.units) / element_ * 16);
    }
    // Beside packed weights they are computed with, in the model's dtype.
    if (!stored.merged && workload_.lora_bytes > 0) here += workload_.lora_bytes;
    here += footprint.unpacked_bytes;
    if (on_device() && footprint.unpacked_bytes > 0) here += kUnpackingBytes;
    if (on_device()) here += kSmallTensors + here / kSmallShare;
    WeightsPlan weights;
    weights.component = footprint.component;
    weights.units = footprint.units;
    weights.fixed_bytes = footprint.fixed_bytes;
    weights.passes = passes;
    weights.always = always;
    weights.buffer_bytes = largest_unit(footprint.units);
    weights.places.assign(footprint.units.size(), UnitPlace::kDisk);

    const auto staging = on_device() ? kPinnedBytes + kFileChunkBytes
                         : mappable  ? 0
                                     : kFileChunkBytes;
    Room room;
    if (on_device()) {
      room.here = budget_.vram - budget_.device_context - footprint.fixed_bytes - here;
      room.host = budget_.ram - budget_.ram_base - host - staging;
    } else {
      room.here = budget_.ram - budget_.ram_base - footprint.fixed_bytes - here - host - staging;
    }
    place_units(weights, room, mappable);

    const auto held = weights.bytes(UnitPlace::kResident) + weights.buffers * weights.buffer_bytes +
                      footprint.fixed_bytes + here;
    const auto staged = weights.mapped ? 0 : staging;
    if (on_device()) {
      phase.device_activations = std::max(phase.device_activations, here);
      phase.host_activations = std::max(phase.host_activations, host);
      phase.device_peak_bytes = std::max(phase.device_peak_bytes, budget_.device_context + held);
      phase.ram_peak_bytes = std::max(
          phase.ram_peak_bytes, budget_.ram_base + host + staged + weights.bytes(UnitPlace::kHost));
    } else {
      phase.host_activations = std::max(phase.host_activations, here + host);
      phase.ram_peak_bytes =
          std::max(phase.ram_peak_bytes, budget_.ram_base + held + host + staged);
    }
    // Everything is read once, and what has no place once in every further pass.
    if (!weights.mapped) {
      phase.disk_read_bytes += file_bytes(footprint);
      phase.disk_read_bytes += (passes - 1) * weights.file_bytes(UnitPlace::kDisk);
      phase.host_copy_bytes += passes * weights.bytes(UnitPlace::kHost);
    }
    phase.weights.push_back(std::move(weights));
  }

  void place_units(WeightsPlan& weights, Room room, bool mappable) const {
    const auto total = weights.total_bytes();
    const auto buffer = weights.buffer_bytes;
    room.here = std::min(room.here, total);
    if (room.here > buffer) {
      room.here = buffer + (room.here - buffer) / kLeanestStep *
                               (kLeanestStep - std::min(options_.leaner, kLeanestStep));
    }
    room.host = room.host / kLeanestStep * (kLeanestStep - std::min(options_.leaner, kLeanestStep));
    const auto set_all = [&] {
      std::fill(weights.places.begin(), weights.places.end(), UnitPlace::kResident);
    };
    if (mappable && options_.leaner == 0 && room.here >= total) {
      weights.mapped = true;
      set_all();
      return;
    }
    const bool again = weights.passes > 1;
    if (again && options_.leaner == 0 && room.here >= total) {
      set_all();
      return;
    }
    // One buffer is the least that works; with two, reading and computing go on at the same time.
    weights.buffers = room.here >= 2 * buffer ? 2 : 1;
    if (!again) return;
    const auto order = residency_order(weights.units.size(), weights.always);
    auto next = order.begin();
    if (weights.buffers == 2)
      next = fill(weights, order, next, UnitPlace::kResident, room.here - 2 * buffer);
    if (on_device()) fill(weights, order, next, UnitPlace::kHost, room.host);
  }

  static std::vector<std::size_t>::const_iterator fill(
      WeightsPlan& weights, const std::vector<std::size_t>& order,
      std::vector<std::size_t>::const_iterator next, UnitPlace place, std::int64_t bytes) {
    for (; next != order.end() && weights.units[*next].bytes <= bytes; ++next) {
      weights.places[*next] = place;
      bytes -= weights.units[*next].bytes;
    }
    return next;
  }

  bool fits(const PhasePlan& phase) const { return steadyflux::fits(phase, budget_); }

  // The best group out of 1, 2, 4, ... members: make(group) gives its phase. A larger group takes
  // more room for activations and lets the weights be brought in less often, so it has to earn it.
  template <typename Make>
  std::pair<std::int64_t, PhasePlan> best_group(std::int64_t members, Make make) const {
    std::int64_t best = 1;
    PhasePlan best_phase = make(1);
    for (std::int64_t group = 2; group / 2 < members && options_.leaner < kLeanestStep;
         group *= 2) {
      const auto size = std::min(group, std::max<std::int64_t>(members >> options_.leaner, 1));
      auto phase = make(size);
      if (!fits(phase) || waiting(phase) >= waiting(best_phase)) continue;
      best = size;
      best_phase = std::move(phase);
    }
    return {best, std::move(best_phase)};
  }

  void plan_encode() {
    if (!workload_.encodes()) return;
    auto [group, phase] =
        best_group(workload_.num_encoded, [this](std::int64_t size) { return encode_phase(size); });
    plan_.encode_group = group;
    plan_.phases.push_back(std::move(phase));
  }

  PhasePlan encode_phase(std::int64_t group) const {
    PhasePlan phase{.name = "encode"};
    if (workload_.num_encoded > 0) add_text_encoders(phase, group);
    if (workload_.num_redux_images > 0) add_redux(phase);
    return phase;
  }

  std::int64_t encode_host() const { return overhead(kEncodeOverhead) + parked_embeds_; }

  // All pictures go through it together. They are read before it is opened.
  void add_redux(PhasePlan& phase) const {
    const auto& redux = model_.redux.value();
    const auto& w = workload_;
    const auto images = w.num_redux_images;
    const auto& encoder = redux.image_encoder;
    const auto pixels = images * 3 * encoder.image_size * encoder.image_size;
    const auto host = encode_host() + pixels;
    add_weights(phase, image_encoder_weights(encoder, w.dtype, w.stored.image_encoder),
                w.stored.image_encoder, 1,
                image_encoder_activations(encoder, w.dtype, images) +
                    if_widened(image_encoder_widened_bytes(encoder)),
                host);
    // What the encoder gave waits in RAM.
    const auto hidden = images * encoder.num_patches() * encoder.hidden_size * element_;
    add_weights(phase,
                image_embedder_weights(redux.image_embedder, w.dtype, w.stored.image_embedder),
                w.stored.image_embedder, 1,
                image_embedder_activations(redux, w.dtype, images) +
                    if_widened(image_embedder_widened_bytes(redux)),
                host + hidden);
    phase.host_activations = std::max(phase.host_activations, host + w.redux_load_bytes);
    phase.ram_peak_bytes =
        std::max(phase.ram_peak_bytes, budget_.ram_base + host + w.redux_load_bytes);
  }

  void add_text_encoders(PhasePlan& phase, std::int64_t group) const {
    const auto passes = (workload_.num_encoded + group - 1) / group;
    const auto host = encode_host();
    const auto here = on_device() ? embeds_ : 0;
    add_weights(phase,
                clip_weights(model_.text_encoder, workload_.dtype, workload_.stored.text_encoder),
                workload_.stored.text_encoder, passes,
                here + clip_activations(model_.text_encoder, workload_.dtype, group) +
                    if_widened(clip_widened_bytes(model_.text_encoder)),
                host);
    add_weights(
        phase, t5_weights(model_.text_encoder_2, workload_.dtype, workload_.stored.text_encoder_2),
        workload_.stored.text_encoder_2, passes,
        here +
            t5_activations(model_.text_encoder_2, workload_.dtype, workload_.max_sequence_length,
                           workers(), group, has_row_kernels()) +
            if_widened(t5_widened_bytes(model_.text_encoder_2, workload_.max_sequence_length)),
        host);
  }

  // The table of modulations is in RAM in both phases: the fewer rows at once, the more often their
  // weights are read.
  void plan_modulate_and_denoise() {
    const auto steps = workload_.num_inference_steps;
    auto rows = std::min(steps, kMostModulationRows);
    for (int step = 0; step < options_.leaner; ++step) rows = (rows + 1) / 2;
    rows = std::max(rows, std::min(steps, kLeastModulationRows));
    while (true) {
      auto modulate = modulate_phase(rows);
      auto [group, denoise] = best_group(
          group_members(), [this, rows](std::int64_t size) { return denoise_phase(rows, size); });
      const bool enough =
          modulate.ram_peak_bytes <= budget_.ram && denoise.ram_peak_bytes <= budget_.ram;
      if (enough || rows <= kLeastModulationRows) {
        plan_.modulation_rows = rows;
        plan_.denoise_group = group;
        plan_.phases.push_back(std::move(modulate));
        plan_.phases.push_back(std::move(denoise));
        break;
      }
      rows = std::max(rows / 2, kLeastModulationRows);
    }
    const auto& weights = plan_.phases.back().weights.front();
    plan_.records_passes =
        may_record() && weights.count(UnitPlace::kResident) == std::ssize(weights.units);
    plan_.disk_read_bytes_per_step = weights.file_bytes(UnitPlace::kDisk);
  }

  // Of all tables, where each has `rows` steps at once. Where steps look ahead, there is a row more
  // for the last of them.
  std::int64_t table_rows(std::int64_t rows) const {
    const auto ahead = workload_.passes_per_step - 1;
    return workload_.num_tables * std::min(rows + ahead, workload_.num_inference_steps);
  }

  std::int64_t table_bytes(std::int64_t rows) const {
    return table_rows(rows) * modulation_row_bytes(model_.transformer, workload_.dtype);
  }

  PhasePlan modulate_phase(std::int64_t rows) const {
    const auto& config = model_.transformer;
    const auto chunks = (workload_.num_inference_steps + rows - 1) / rows;
    PhasePlan modulate{.name = "modulate"};
    add_weights(modulate, modulation_weights(config, workload_.dtype, workload_.stored.transformer),
                workload_.stored.transformer, 1,
                modulation_activations(config, workload_.dtype, table_rows(rows)) +
                    if_widened(modulation_widened_bytes(config, table_rows(rows))),
                overhead(kModulateOverhead) + table_bytes(rows) + parked_embeds_ +
                    (chunks > 1 || workload_.encodes_images() ? latents_ : 0) +
                    (chunks > 1 ? all_step_caches() : 0));
    modulate.disk_read_bytes *= chunks;
    return modulate;
  }

  // Step caching decides from pass to pass what is computed.
  bool may_record() const {
    return on_device() && options_.cuda_graphs && options_.leaner == 0 &&
           workload_.num_step_caches == 0;
  }

  PhasePlan denoise_phase(std::int64_t rows, std::int64_t group) const {
    const auto& config = model_.transformer;
    PhasePlan denoise{.name = "denoise"};
    const auto shown_len = tile_len_ + reference_len_;
    const auto passes = group_passes(group) * workload_.evaluations();
    const auto inputs = inputs_of(group);
    const auto brought = on_device()  // of each input
                             ? embeds_ + modulation_row_bytes(config, workload_.dtype)
                             : std::int64_t{0};
    // A recording has inputs and results of its own.
    const auto recorded =
        may_record() ? brought + rotary_bytes(config, workload_.text_len() + shown_len) +
                           shown_len * (config.in_channels + config.out_channels) * element_
                     : std::int64_t{0};
    // A negative prompt has no pictures behind it, and so positions of its own.
    const auto more_positions =
        workload_.num_guided > 0 && workload_.redux_tokens > 0
            ? rotary_bytes(config, workload_.max_sequence_length + shown_len)
            : std::int64_t{0};
    const auto blended = blend_bytes(tiles_, config.out_channels);
    const auto activations =
        std::max(transformer_activations(
                     config, workload_.dtype, workload_.text_len(), shown_len, workers(), inputs,
                     product_bytes(workload_.compute, workload_.dtype, workers())) +
                     if_widened(transformer_widened_bytes(config, workload_.compute,
                                                          workload_.text_len(), shown_len)),
                 // By then tiles have been put together, and in RAM that room is free again.
                 solver_bytes() - (on_device() ? 0 : blended));
    add_weights(denoise, transformer_weights(config, workload_.dtype, workload_.stored.transformer),
                workload_.stored.transformer, passes,
                activations + inputs * (brought + recorded) + more_positions,
                overhead(with_kernels(kDenoiseOverhead)) + table_bytes(rows) + latents_ +
                    parked_embeds_ + blended + step_caches(rows, group),
                workload_.num_step_caches > 0 ? first_block_units(config) : 0);
    return denoise;
  }

  // Bytes of one StepCache: the picture's tokens, twice.
  std::int64_t step_cache() const {
    return 2 * (tile_len_ + reference_len_) * model_.transformer.inner_dim() * element_;
  }
  std::int64_t all_step_caches() const {
    return workload_.num_step_caches * tiles_.count() * step_cache();
  }
  // Pictures of a group have theirs, unless all pictures wait in the midst of their steps: for more
  // modulations, or because memory ran out.
  std::int64_t step_caches(std::int64_t rows, std::int64_t group) const {
    if (rows < workload_.num_inference_steps || options_.leaner > 0) return all_step_caches();
    const auto inputs = in_tiles() ? inputs_of(tiles_.count()) : inputs_of(group);
    return std::min(inputs * workload_.passes_per_step * step_cache(), all_step_caches());
  }

  // Pictures go through a step in groups; one in tiles goes alone, with a group of them at a time.
  bool in_tiles() const { return tiles_.count() > 1; }
  std::int64_t group_members() const { return in_tiles() ? tiles_.count() : workload_.num_images; }
  // What goes in for a group: twice a picture with a negative prompt, or each tile of one.
  std::int64_t inputs_of(std::int64_t group) const {
    const auto all_or_none = workload_.num_guided > 0 ? group : 0;
    return group + (in_tiles() ? all_or_none : std::min(group, workload_.num_guided));
  }
  std::int64_t group_passes(std::int64_t group) const {
    return (group_members() + group - 1) / group * (in_tiles() ? workload_.num_images : 1);
  }
  // What tiles are put together in, in fp32, with one that is being added and a copy in the
  // model's dtype.
  std::int64_t blend_bytes(const TileGrid& grid, std::int64_t channels) const {
    if (!in_tiles()) return 0;
    return (grid.height * grid.width * (kFp32Bytes + element_) +
            2 * grid.tile_height * grid.tile_width * kFp32Bytes) *
           channels;
  }

  // What a solver takes to go a step on with a picture, with its velocity: latents are added up in
  // fp32 (pipeline/picture_solver.cpp). Little beside what the transformer takes, unless that sees
  // small tiles of a large picture.
  std::int64_t solver_bytes() const {
    const bool is_plain = workload_.solver_latents == 0 && workload_.num_masks == 0;
    const auto each = is_plain ? 2 * kFp32Bytes + 2 * element_ : 4 * kFp32Bytes + 4 * element_;
    return tiles_.height * tiles_.width * model_.transformer.out_channels * each;
  }

  // In fp16 T5's stream is fp32 in places, and goes through operators.
  int workers() const { return on_device() ? 0 : workload_.num_threads; }
  bool has_row_kernels() const { return !on_device() && workload_.dtype != "fp16"; }
  bool widened() const { return workload_.widened && !on_device(); }
  std::int64_t if_widened(std::int64_t bytes) const { return widened() ? bytes : 0; }

  void plan_encode_image() {
    const auto weight_bytes = vae_encoder_weight_bytes(model_.vae, element_);
    const auto tile = tiles_.scaled(2 * model_.vae.scale_factor());
    // What is encoded at once: a tile, and a reference. The picture is there as bytes, and what is
    // encoded of it in fp32.
    std::vector<PictureSides> encoded;
    std::int64_t pixels = 0;
    const auto add = [&](std::int64_t picture, std::int64_t width, std::int64_t height) {
      encoded.push_back({width, height});
      pixels = std::max(pixels, 3 * (picture + width * height * kFp32Bytes));
    };
    if (workload_.num_init_images + workload_.num_conditions > 0) {
      add(tile.height * tile.width, tile.tile_width, tile.tile_height);
    }
    if (workload_.num_references > 0) {
      const auto width = workload_.reference_width, height = workload_.reference_height;
      add(width * height, width, height);
    }
    const auto host = vae_host(kDecodeOverhead) + parked_embeds_ + latents_ + pixels +
                      blend_bytes(tiles_.scaled(2), 2 * model_.vae.latent_channels);
    plan_.vae_encoder = plan_vae("encode_image", weight_bytes, host, [&](auto bands, bool parked) {
      VaeFootprint footprint;
      for (const auto& [width, height] : encoded) {
        auto one = vae_encode_footprint(model_.vae, height, width, element_, bands, on_device(),
                                        parked, widened());
        one.device_peak = std::max(one.device_peak, footprint.device_peak);
        one.host_peak = std::max(one.host_peak, footprint.host_peak);
        footprint = one;
      }
      // A file may hold more pixels than are asked for. It is read before the encoder begins.
      footprint.host_peak = std::max(footprint.host_peak, workload_.image_load_bytes);
      return footprint;
    });
  }

  void plan_decode() {
    const auto weight_bytes = vae_decoder_weight_bytes(model_.vae, element_);
    const auto latents = tiles_.scaled(2);
    const auto host = vae_host(with_kernels(kDecodeOverhead)) + latents_ +
                      2 * workload_.width * workload_.height * 3 +
                      blend_bytes(latents.scaled(model_.vae.scale_factor()), 3);
    plan_.vae = plan_vae("decode", weight_bytes, host, [&](auto bands, bool parked) {
      return vae_decode_footprint(model_.vae, latents.tile_height, latents.tile_width, element_,
                                  bands, on_device(), parked, widened());
    });
  }

  // On the CPU the library lays out a convolution's weights once more.
  std::int64_t vae_host(std::int64_t overhead_bytes) const {
    return overhead(overhead_bytes) +
           (on_device() ? 0 : vae_largest_weight_bytes(model_.vae, element_));
  }

  // A phase of the VAE, with the widest bands that fit, else the narrowest. footprint(band_bytes,
  // parked) says what they take.
  template <typename Footprint>
  VaePlan plan_vae(const char* name, std::int64_t weight_bytes, std::int64_t host,
                   Footprint footprint_of) {
    std::vector<std::int64_t> bands(std::begin(kBands), std::end(kBands));
    if (options_.vae_tiling == Tiling::kOff) {
      bands = {kWholePicture};
    } else if (on_device() && options_.vae_tiling == Tiling::kAuto) {
      bands.insert(bands.begin(), kWholePicture);
    }
    const auto first = std::min<std::size_t>(
        bands.size() - 1, bands.size() * static_cast<std::size_t>(options_.leaner) / kLeanestStep);
    PhasePlan phase;
    VaePlan vae;
    for (std::size_t i = first; i < bands.size(); ++i) {
      for (const bool parked : {false, true}) {
        if (parked && !on_device()) continue;
        const VaeFootprint footprint = footprint_of(bands[i], parked);
        phase = vae_phase(name, weight_bytes, footprint, host);
        vae = {bands[i], footprint.band_rows, footprint.tiled, parked};
        if (!fits(phase)) continue;
        plan_.phases.push_back(std::move(phase));
        return vae;
      }
    }
    plan_.phases.push_back(std::move(phase));
    return vae;
  }

  PhasePlan vae_phase(const char* name, std::int64_t weight_bytes, const VaeFootprint& footprint,
                      std::int64_t host) {
    PhasePlan phase{.name = name};
    WeightsPlan weights;
    weights.component = "vae";
    weights.fixed_bytes = weight_bytes;
    weights.mapped = !on_device() && workload_.stored.vae.dtype == workload_.dtype;
    phase.device_activations =
        on_device() ? footprint.device_peak + kSmallTensors + footprint.device_peak / kSmallShare
                    : 0;
    phase.host_activations = footprint.host_peak + host;
    phase.ram_peak_bytes = budget_.ram_base + phase.host_activations;
    if (on_device()) {
      phase.device_peak_bytes = budget_.device_context + weight_bytes + phase.device_activations;
      phase.ram_peak_bytes += std::min(kPinnedBytes, 2 * weight_bytes);
    } else {
      phase.ram_peak_bytes += weight_bytes;
    }
    phase.weights.push_back(std::move(weights));
    return phase;
  }

  const FluxModel& model_;
  const Workload& workload_;
  const Budget& budget_;
  const PlanOptions& options_;
  std::int64_t element_;
  TileGrid tiles_;  // in packed tokens
  std::int64_t tile_len_ = 0;
  std::int64_t reference_len_ = 0;  // of the largest reference
  // Bytes that phases leave to each other in RAM; embeds_ are those of one prompt.
  std::int64_t embeds_ = 0, parked_embeds_ = 0, latents_ = 0;
  Plan plan_;
};

}  // namespace

std::int64_t WeightsPlan::count(UnitPlace place) const {
  return std::count(places.begin(), places.end(), place);
}

std::int64_t WeightsPlan::bytes(UnitPlace place) const {
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < units.size(); ++i) sum += places[i] == place ? units[i].bytes : 0;
  return sum;
}

std::int64_t WeightsPlan::file_bytes(UnitPlace place) const {
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < units.size(); ++i) {
    sum += places[i] == place ? units[i].file_bytes : 0;
  }
  return sum;
}

std::int64_t WeightsPlan::total_bytes() const {
  std::int64_t sum = 0;
  for (const auto& unit : units) sum += unit.bytes;
  return sum;
}

const PhasePlan& Plan::phase(const std::string& name) const {
  for (const auto& phase : phases) {
    if (phase.name == name) return phase;
  }
  throw Error(ErrorKind::kInternal, "the plan has no phase " + name);
}

bool fits(const PhasePlan& phase, const Budget& budget) {
  return phase.ram_peak_bytes <= budget.ram &&
         (!budget.has_device || phase.device_peak_bytes <= budget.vram);
}

std::int64_t traffic(const Plan& plan) {
  return plan.disk_read_bytes + plan.host_copy_bytes / kHostCopyShare;
}

Plan make_plan(const FluxModel& model, const Workload& workload, const Budget& budget,
               const PlanOptions& options) {
  return Planner(model, workload, budget, options).make();
}

}  // namespace steadyflux
