#include "steadyflux/pipeline.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/bytes.h"
#include "config/model_config.h"
#include "memory/plan.h"
#include "memory/plan_advice.h"
#include "memory/probe.h"
#include "nn/load.h"
#include "pipeline/device.h"
#include "pipeline/generate.h"
#include "pipeline/phase_runner.h"
#include "pipeline/planning.h"
#include "pipeline/workload.h"
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

  RunSetting setting(const Request& request) const {
    return {model,
            device,
            dtype,
            make_workload(request, find_stored_dtypes(model), dtype_name, num_threads),
            live_budget(options, device),
            plan_options(options),
            on_pressure(options.on_pressure)};
  }
};

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
    const auto& plan = runner.plan();
    throw Error(ErrorKind::kDoesNotFit,
                does_not_fit_text(plan, find_remedies(state_->model, plan.workload, plan.budget,
                                                      runner.plan_options())));
  }
  observer.planned(runner.plan());
  try {
    generate_pictures(state_->model, request, runner, on_image);
  } catch (...) {
    observer.memory_seen(runner.timeline());
    throw;
  }
  observer.memory_seen(runner.timeline());
}

}  // namespace steadyflux
