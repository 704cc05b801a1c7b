#include "steadyflux/pipeline.h"

#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <map>

#include "base/bytes.h"
#include "config/model_config.h"
#include "memory/monitor.h"
#include "memory/plan.h"
#include "memory/probe.h"
#include "memory/release.h"
#include "nn/load.h"
#include "pipeline/device.h"
#include "pipeline/out_of_memory.h"
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

std::int64_t stored_size(const ModelFolder& model, const char* component, at::ScalarType dtype,
                         bool& same_dtype) {
  const auto stored = dominant_dtype(Checkpoint::open(model.root / component));
  same_dtype = same_dtype && stored == dtype;
  return static_cast<std::int64_t>(c10::elementSize(stored));
}

// One request on its way, with the plan it follows at present.
struct Run {
  const Request& request;
  Observer& observer;
  Workload workload;
  Budget budget;
  PlanOptions options;
  Plan plan;
};

}  // namespace

struct Pipeline::State {
  PipelineOptions options;
  ModelFolder model;
  c10::Device device = c10::Device(c10::kCPU);
  at::ScalarType dtype = at::kFloat;
  std::string device_name;
  std::string dtype_name;
  int num_threads = 1;

  Workload workload(const Request& request) const {
    Workload workload{.width = request.width,
                      .height = request.height,
                      .num_inference_steps = request.num_inference_steps,
                      .num_images = request.num_images,
                      .max_sequence_length = request.max_sequence_length,
                      .num_threads = num_threads,
                      .dtype = dtype_name,
                      .stored = {}};
    auto& same = workload.same_dtype_as_files;
    workload.stored.text_encoder = stored_size(model, "text_encoder", dtype, same);
    workload.stored.text_encoder_2 = stored_size(model, "text_encoder_2", dtype, same);
    workload.stored.transformer = stored_size(model, "transformer", dtype, same);
    workload.stored.vae = stored_size(model, "vae", dtype, same);
    return workload;
  }

  Budget budget() const {
    const auto host = probe_host_memory();
    Budget budget;
    budget.ram_base = sample_process_memory().rss;
    auto available = host.available;
    if (host.cgroup_limit) {
      available = std::min(available, *host.cgroup_limit - host.cgroup_used.value_or(0));
    }
    budget.ram = budget.ram_base + available - std::min<std::int64_t>(available / 20, 1 << 30);
    if (options.max_ram) budget.ram = std::min(budget.ram, *options.max_ram);
    if (!device.is_cpu()) {
      budget.has_device = true;
      budget.vram = static_cast<std::int64_t>(at::accelerator::getMemoryInfo(device.index()).first);
      if (options.max_vram) budget.vram = std::min(budget.vram, *options.max_vram);
    }
    return budget;
  }

  PlanOptions plan_options() const {
    PlanOptions plan;
    if (options.vae_tiling == "on") plan.vae_tiling = Tiling::kOn;
    if (options.vae_tiling == "off") plan.vae_tiling = Tiling::kOff;
    return plan;
  }

  Run start(const Request& request, Observer& observer) const {
    Run run{request, observer, workload(request), budget(), plan_options(), {}};
    run.plan = make_plan(model, run.workload, run.budget, run.options);
    return run;
  }

  void plan_leaner(Run& run) const {
    ++run.options.leaner;
    run.plan = make_plan(model, run.workload, run.budget, run.options);
    run.observer.planned(run.plan);
  }

  // Runs one phase under the memory watch and tells the observer what it took. When memory runs
  // out, `body` is called again with a leaner plan: it goes on where it was.
  template <typename Body>
  void run_phase(Run& run, const char* name, std::int64_t steps, Body body) {
    run.observer.phase_started(name, steps);
    const auto start = std::chrono::steady_clock::now();
    PhaseStats stats;
    stats.name = name;
    {
      const ReleaseAtEnd release{device};
      reset_device_peak(device);
      MemoryWatch watch;
      while (!try_body(run, name, stats.load_seconds, body)) {
        release_device_memory(device);
        release_host_memory();
        plan_leaner(run);
      }
      synchronize_device(device);
      const auto peaks = watch.stop();
      const auto device_peaks = device_peak(device);
      const auto& predicted = run.plan.phase(name);
      stats.device_peak_allocated = device_peaks.peak_allocated;
      stats.device_peak_reserved = device_peaks.peak_reserved;
      stats.peak_rss = peaks.rss;
      stats.peak_rss_anon = peaks.rss_anon;
      stats.peak_rss_file = peaks.rss_file;
      stats.major_faults = peaks.major_faults;
      stats.swap = peaks.swap;
      stats.predicted_ram = predicted.ram_peak_bytes;
      if (!device.is_cpu()) {
        stats.predicted_device = predicted.device_peak_bytes - run.budget.device_context;
      }
    }
    stats.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    run.observer.phase_finished(stats);
  }

  // False if memory ran out and there is a leaner plan. What `body` held is free when this returns.
  template <typename Body>
  bool try_body(Run& run, const char* name, double& load_seconds, Body body) const {
    try {
      body(PhaseContext{model, device, dtype, run.observer, load_seconds, run.plan});
      return true;
    } catch (const std::exception& error) {
      const auto detail = out_of_memory_detail(error);
      if (!detail || run.plan.leanest) throw;
      run.observer.warning(fmt::format("out of memory in {}{}: going on by a leaner plan", name,
                                       detail->empty() ? "" : fmt::format(" ({})", *detail)));
      return false;
    }
  }
};

namespace {

Error does_not_fit(const ModelFolder& model, const Plan& plan, const PlanOptions& options) {
  const auto other = find_alternatives(model, plan.workload, plan.budget, options);
  std::string text = fmt::format("{} x {} needs ", plan.workload.width, plan.workload.height);
  if (plan.budget.has_device) {
    text += fmt::format("{} of VRAM ({} there) and ", format_bytes(plan.device_peak_bytes),
                        format_bytes(plan.budget.vram));
  }
  text += fmt::format("{} of RAM ({} there), however it is planned",
                      format_bytes(plan.ram_peak_bytes), format_bytes(plan.budget.ram));
  if (other.width > 0) {
    text += fmt::format("; the largest size that fits is {} x {}", other.width, other.height);
  }
  return Error(ErrorKind::kDoesNotFit, text);
}

std::size_t finished_pictures(const Denoising& state, const Request& request) {
  std::size_t count = 0;
  while (count < state.steps_done.size() &&
         state.steps_done[count] == request.num_inference_steps) {
    ++count;
  }
  return count;
}

}  // namespace

Pipeline::Pipeline(const PipelineOptions& options) : state_(std::make_unique<State>()) {
  state_->options = options;
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

Plan Pipeline::plan(const Request& request) const {
  check(request);
  const auto workload = state_->workload(request);
  return make_plan(state_->model, workload, state_->budget(), state_->plan_options());
}

void Pipeline::generate(const Request& request, Observer& observer,
                        const std::function<void(std::int64_t index, Image image)>& on_image) {
  check(request);
  const c10::InferenceMode inference_mode;
  auto run = state_->start(request, observer);
  if (!run.plan.fits) throw does_not_fit(state_->model, run.plan, run.options);
  observer.planned(run.plan);
  const auto& model = state_->model;

  PromptEmbeddings embeddings;
  state_->run_phase(run, "encode", encode_steps(model), [&](const PhaseContext& context) {
    embeddings = encode_prompt(context, request.prompt, request.max_sequence_length);
  });

  Denoising state;
  std::exception_ptr failure;
  try {
    for (std::int64_t step = 0; step < request.num_inference_steps;) {
      ModulationTable table;
      state_->run_phase(run, "modulate", modulate_steps(model), [&](const PhaseContext& context) {
        table = modulate(context, request, embeddings, step);
      });
      state_->run_phase(run, "denoise", request.num_images * request.num_inference_steps,
                        [&](const PhaseContext& context) {
                          denoise(context, request, embeddings, table, state);
                        });
      step = table.first + table.rows.size(0);
    }
  } catch (const std::exception& error) {
    state.latents.resize(finished_pictures(state, request));
    if (state.latents.empty() || !out_of_memory_detail(error)) throw;
    failure = std::current_exception();
  }
  embeddings = {};
  std::size_t decoded = 0;
  state_->run_phase(run, "decode",
                    static_cast<std::int64_t>(state.latents.size()) * decode_steps(model),
                    [&](const PhaseContext& context) {
                      decode(context, request, state.latents, decoded, on_image);
                    });
  if (failure) std::rethrow_exception(failure);
}

}  // namespace steadyflux
