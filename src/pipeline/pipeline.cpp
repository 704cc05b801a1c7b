#include "steadyflux/pipeline.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <chrono>
#include <map>

#include "config/model_config.h"
#include "memory/monitor.h"
#include "memory/probe.h"
#include "memory/release.h"
#include "nn/load.h"
#include "pipeline/device.h"
#include "pipeline/phases.h"
#include "weights/checkpoint.h"

namespace steadyflux {
namespace {

const std::map<std::string, at::ScalarType> kDtypes = {
    {"bf16", at::kBFloat16}, {"fp16", at::kHalf}, {"fp32", at::kFloat}};

at::ScalarType select_dtype(const std::string& spec, const ModelFolder& model) {
  if (spec == "auto") return dominant_dtype(Checkpoint::open(model.root / "transformer"));
  const auto it = kDtypes.find(spec);
  if (it == kDtypes.end()) {
    throw Error(ErrorKind::kUsage,
                fmt::format("unknown dtype '{}': use auto, bf16, fp16 or fp32", spec));
  }
  return it->second;
}

std::string dtype_name_of(at::ScalarType dtype) {
  for (const auto& [name, type] : kDtypes) {
    if (type == dtype) return name;
  }
  return "fp32";
}

void check_multiple(const char* what, std::int64_t value, std::int64_t multiple) {
  if (value >= multiple && value % multiple == 0) return;
  const auto below = std::max(value / multiple, std::int64_t{1}) * multiple;
  const auto above = (value < multiple ? 2 : value / multiple + 1) * multiple;
  throw Error(ErrorKind::kUsage, fmt::format("{} {} is not a multiple of {}: use {} or {}", what,
                                             value, multiple, below, above));
}

void check_positive(const char* what, std::int64_t value) {
  if (value < 1) throw Error(ErrorKind::kUsage, fmt::format("{} must be at least 1", what));
}

// Gives what a phase freed back to the device and the system when the phase ends, however it ends.
struct ReleaseAtEnd {
  c10::Device device;
  ~ReleaseAtEnd() {
    try {
      release_device_memory(device);
    } catch (const c10::Error&) {  // a device in a bad way: the error that led here tells more
    }
    release_host_memory();
  }
};

}  // namespace

struct Pipeline::State {
  ModelFolder model;
  c10::Device device = c10::Device(c10::kCPU);
  at::ScalarType dtype = at::kFloat;
  std::string device_name;
  std::string dtype_name;
  int num_threads = 1;

  // Runs one phase under the memory watch and tells the observer what it took.
  template <typename Body>
  void run_phase(const char* name, std::int64_t steps, Observer& observer, Body body) {
    observer.phase_started(name, steps);
    const auto start = std::chrono::steady_clock::now();
    PhaseStats stats;
    stats.name = name;
    {
      const ReleaseAtEnd release{device};
      reset_device_peak(device);
      MemoryWatch watch;
      body(PhaseContext{model, device, dtype, observer, stats.load_seconds});
      synchronize_device(device);
      const auto peaks = watch.stop();
      const auto device_peaks = device_peak(device);
      stats.device_peak_allocated = device_peaks.peak_allocated;
      stats.device_peak_reserved = device_peaks.peak_reserved;
      stats.peak_rss = peaks.rss;
      stats.peak_rss_anon = peaks.rss_anon;
      stats.peak_rss_file = peaks.rss_file;
      stats.major_faults = peaks.major_faults;
      stats.swap = peaks.swap;
    }
    stats.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    observer.phase_finished(stats);
  }
};

Pipeline::Pipeline(const PipelineOptions& options) : state_(std::make_unique<State>()) {
  state_->model = ModelFolder::open(options.model);
  check_weights(state_->model);
  state_->device = select_device(options.device);
  state_->dtype = select_dtype(options.dtype, state_->model);
  state_->device_name = state_->device.is_cpu() ? "cpu" : state_->device.str();
  state_->dtype_name = dtype_name_of(state_->dtype);
  state_->num_threads = options.num_threads > 0 ? options.num_threads : physical_cores();
  at::set_num_threads(state_->num_threads);
}

Pipeline::~Pipeline() = default;
Pipeline::Pipeline(Pipeline&&) noexcept = default;
Pipeline& Pipeline::operator=(Pipeline&&) noexcept = default;

const std::string& Pipeline::device_name() const { return state_->device_name; }
const std::string& Pipeline::dtype_name() const { return state_->dtype_name; }
int Pipeline::num_threads() const { return state_->num_threads; }

void Pipeline::check(const Request& request) const {
  const auto multiple = 2 * state_->model.vae.scale_factor();
  check_multiple("width", request.width, multiple);
  check_multiple("height", request.height, multiple);
  check_positive("steps", request.num_inference_steps);
  check_positive("num-images", request.num_images);
  if (request.max_sequence_length < 1 || request.max_sequence_length > 512) {
    throw Error(ErrorKind::kUsage, fmt::format("max-sequence-length {} is not in 1..512",
                                               request.max_sequence_length));
  }
}

void Pipeline::generate(const Request& request, Observer& observer,
                        const std::function<void(std::int64_t index, Image image)>& on_image) {
  check(request);
  const c10::InferenceMode inference_mode;
  PromptEmbeddings embeddings;
  std::vector<at::Tensor> latents;
  state_->run_phase(
      "encode", encode_steps(state_->model), observer, [&](const PhaseContext& context) {
        embeddings = encode_prompt(context, request.prompt, request.max_sequence_length);
      });
  state_->run_phase(
      "denoise", request.num_images * request.num_inference_steps, observer,
      [&](const PhaseContext& context) { latents = denoise(context, request, embeddings); });
  embeddings = {};
  state_->run_phase(
      "decode", request.num_images * decode_steps(state_->model), observer,
      [&](const PhaseContext& context) { decode(context, request, latents, on_image); });
}

}  // namespace steadyflux
