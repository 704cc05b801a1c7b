#include "steadyflux/pipeline.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <map>

#include "base/bytes.h"
#include "config/model_config.h"
#include "memory/plan.h"
#include "memory/probe.h"
#include "nn/load.h"
#include "pipeline/device.h"
#include "pipeline/out_of_memory.h"
#include "pipeline/phase_runner.h"
#include "pipeline/phases.h"
#include "pipeline/planning.h"
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

std::int64_t stored_size(const ModelFolder& model, const char* component, at::ScalarType dtype,
                         bool& same_dtype) {
  const auto stored = dominant_dtype(Checkpoint::open(model.root / component));
  same_dtype = same_dtype && stored == dtype;
  return static_cast<std::int64_t>(c10::elementSize(stored));
}

OnPressure on_pressure(const std::string& text) {
  if (text == "abort") return OnPressure::kAbort;
  return text == "warn" ? OnPressure::kWarn : OnPressure::kReplan;
}

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

  RunSetting setting(const Request& request) const {
    return {model,
            device,
            dtype,
            workload(request),
            live_budget(options, device),
            plan_options(options),
            on_pressure(options.on_pressure)};
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

void run_phases(const ModelFolder& model, const Request& request, PhaseRunner& runner,
                const std::function<void(std::int64_t index, Image image)>& on_image) {
  PromptEmbeddings embeddings;
  runner.run("encode", encode_steps(model), [&](const PhaseContext& context) {
    embeddings = encode_prompt(context, request.prompt, request.max_sequence_length);
  });

  Denoising state;
  std::exception_ptr failure;
  try {
    for (std::int64_t step = 0; step < request.num_inference_steps;) {
      ModulationTable table;
      runner.run("modulate", modulate_steps(model), [&](const PhaseContext& context) {
        table = modulate(context, request, embeddings, step);
      });
      runner.run("denoise", request.num_images * request.num_inference_steps,
                 [&](const PhaseContext& context) {
                   denoise(context, request, embeddings, table, state);
                 });
      step = table.first + table.rows.size(0);
    }
  } catch (const std::exception& error) {
    // There is no leaner plan any more; what is finished is given all the same.
    state.latents.resize(finished_pictures(state, request));
    if (state.latents.empty() || !out_of_memory_detail(error)) throw;
    failure = std::current_exception();
  }
  embeddings = {};
  std::size_t decoded = 0;
  runner.run("decode", static_cast<std::int64_t>(state.latents.size()) * decode_steps(model),
             [&](const PhaseContext& context) {
               decode(context, request, state.latents, decoded, on_image);
             });
  if (failure) std::rethrow_exception(failure);
}

}  // namespace

Pipeline::Pipeline(const PipelineOptions& options) : state_(std::make_unique<State>()) {
  state_->options = options;
  state_->model = ModelFolder::open(options.model);
  check_weights(state_->model);
  limit_cuda_allocator(options);
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
  const auto setting = state_->setting(request);
  return make_plan(setting.model, setting.workload, setting.budget, setting.plan_options);
}

void Pipeline::generate(const Request& request, Observer& observer,
                        const std::function<void(std::int64_t index, Image image)>& on_image) {
  check(request);
  const c10::InferenceMode inference_mode;
  PhaseRunner runner(state_->setting(request), observer);
  if (!runner.plan().fits) {
    throw does_not_fit(state_->model, runner.plan(), runner.plan_options());
  }
  observer.planned(runner.plan());
  try {
    run_phases(state_->model, request, runner, on_image);
  } catch (...) {
    observer.memory_seen(runner.timeline());
    throw;
  }
  observer.memory_seen(runner.timeline());
}

}  // namespace steadyflux
