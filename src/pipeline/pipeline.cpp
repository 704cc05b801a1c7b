#include "steadyflux/pipeline.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/bytes.h"
#include "checkpoints/open_model.h"
#include "config/model_config.h"
#include "memory/largest_size.h"
#include "memory/plan.h"
#include "memory/plan_advice.h"
#include "memory/probe.h"
#include "memory/time_estimate.h"
#include "nn/compute.h"
#include "pipeline/condition_check.h"
#include "pipeline/device.h"
#include "pipeline/dtypes.h"
#include "pipeline/generate.h"
#include "pipeline/lora_set.h"
#include "pipeline/phase_runner.h"
#include "pipeline/picture_sigmas.h"
#include "pipeline/planning.h"
#include "pipeline/saved_tensors.h"
#include "pipeline/speed_probe.h"
#include "pipeline/staged_run.h"
#include "pipeline/stages.h"
#include "pipeline/stored_model.h"
#include "pipeline/workload.h"
#include "scheduler/sampling_schedule.h"

namespace steadyflux {
namespace {

at::ScalarType select_dtype(const std::string& spec, const StoredModel& stored) {
  const auto name = spec == "auto" ? computed_dtype(stored.transformer) : spec;
  if (const auto dtype = dtype_of_name(name)) return *dtype;
  throw Error(ErrorKind::kUsage,
              fmt::format("unknown dtype '{}': use auto, bf16, fp16 or fp32", spec));
}

Compute select_compute(const std::string& spec) {
  if (const auto compute = compute_of_name(spec)) return *compute;
  throw Error(ErrorKind::kUsage,
              fmt::format("unknown compute '{}': use auto, bf16, int8 or fp8", spec));
}

void check_multiple(const char* what, std::int64_t value, std::int64_t multiple) {
  if (value >= multiple && value % multiple == 0) return;
  const auto below = std::max(value / multiple, std::int64_t{1}) * multiple;
  const auto above = (value < multiple ? 2 : value / multiple + 1) * multiple;
  throw Error(ErrorKind::kUsage, fmt::format("{} {} is not a multiple of {}: use {} or {}", what,
                                             value, multiple, below, above));
}

void check_strength(double strength) {
  if (strength > 0 && strength <= 1) return;
  throw Error(ErrorKind::kUsage, fmt::format("strength {} is not above 0, up to 1", strength));
}

void check_progressive(const Request& request, std::int64_t multiple) {
  check_strength(request.progressive->strength);
  check_multiple("base-size", request.progressive->base, multiple);
  if (request.init_image) {
    throw Error(ErrorKind::kUsage, "a progressive picture begins from noise, not from a picture");
  }
}

void check_positive(const char* what, std::int64_t value) {
  if (value < 1) throw Error(ErrorKind::kUsage, fmt::format("{} must be at least 1", what));
}

void check_redux_images(const Request& request, const FluxModel& model) {
  if (!request.redux_images.empty() && !model.redux) {
    throw Error(ErrorKind::kUsage,
                "--redux-image without --redux: name the folder of FLUX.1-Redux-dev");
  }
  if (request.redux_images.empty() && !request.has_prompt) {
    throw Error(ErrorKind::kUsage, "neither a prompt nor a --redux-image");
  }
}

OnPressure on_pressure(const std::string& text) {
  if (text == "abort") return OnPressure::kAbort;
  return text == "warn" ? OnPressure::kWarn : OnPressure::kReplan;
}

Error does_not_fit(const FluxModel& model, const Plan& plan, const PlanOptions& options) {
  const auto remedies = find_remedies(model, plan.workload, plan.budget, options);
  return {ErrorKind::kDoesNotFit, does_not_fit_text(plan, remedies)};
}

}  // namespace

bool can_be_made_together(const Request& a, const Request& b) {
  return a.loras == b.loras && a.progressive == b.progressive && a.tile == b.tile &&
         ((!a.progressive && a.tile == 0) || (a.width == b.width && a.height == b.height));
}

struct Pipeline::State {
  PipelineOptions options;
  FluxModel model;
  StoredModel stored;
  c10::Device device = c10::Device(c10::kCPU);
  at::ScalarType dtype = at::kFloat;
  std::string device_name;
  std::string dtype_name;
  int num_threads = 1;
  MemorySample at_start;
  std::int64_t largest_area = 0;  // of the pictures that went through all phases, pixels

  // What libraries touched for pictures as large as these can be counted on; larger ones are new.
  bool is_warm(const Workload& workload) const {
    return workload.width * workload.height <= largest_area;
  }

  Budget budget(bool warm) const {
    return live_budget(options, device,
                       warm ? std::optional(at_start) : std::optional<MemorySample>());
  }

  // Those of the requests that are being made.
  std::shared_ptr<const LoraSet> loras = std::make_shared<LoraSet>();
  // All that were asked for: their files stay mapped.
  std::vector<std::pair<std::vector<LoraUse>, std::shared_ptr<const LoraSet>>> opened_loras;

  // Of a picture's sides, pixels.
  std::int64_t multiple() const { return 2 * model.vae.scale_factor(); }

  Workload workload(const Chunk& chunk) const {
    return make_workload(chunk, stored, dtype_name, num_threads, options.compute);
  }

  RunSetting setting(const Workload& workload) const {
    return {loras->model,
            device,
            dtype,
            workload,
            budget(is_warm(workload)),
            plan_options(options),
            on_pressure(options.on_pressure),
            nullptr,
            loras};
  }

  std::shared_ptr<const LoraSet> find_loras(const std::vector<LoraUse>& uses) {
    for (const auto& [known, set] : opened_loras) {
      if (known == uses) return set;
    }
    opened_loras.emplace_back(uses, open_loras(model, uses));
    return opened_loras.back().second;
  }

  void take_loras(std::span<const Request> requests) {
    if (!requests.empty()) loras = find_loras(requests.front().loras);
  }

  // One for each prompt of the chunk; undefined where the store has none.
  std::vector<PromptEmbeddings> find_embeddings(const Chunk& chunk,
                                                PromptEmbedsStore* store) const {
    std::vector<PromptEmbeddings> embeddings(chunk.prompts.size());
    if (store == nullptr || chunk.requests.empty()) return embeddings;
    store->use_loras(chunk.requests.front().loras,
                     loras->find(Component::kTextEncoder) != nullptr ||
                         loras->find(Component::kTextEncoder2) != nullptr);
    for (std::size_t i = 0; i < embeddings.size(); ++i) {
      const auto& prompt = chunk.prompts[i];
      const auto first = chunk.first_with_text_of(i);
      if (first != i) embeddings[i] = embeddings[first];
      if (first != i || !prompt.has_text) continue;
      const auto found =
          store->find(prompt.text, prompt.text_2, prompt.max_sequence_length, dtype_name);
      if (found) embeddings[i] = from_stored(*found, model, prompt.max_sequence_length, dtype);
    }
    return embeddings;
  }
};

Pipeline::Pipeline(const PipelineOptions& options) : state_(std::make_unique<State>()) {
  state_->options = options;
  state_->model = open_model(options.model, options.parts);
  if (!options.parts.encode_only) check_transformer_and_vae(state_->model);
  prepare_cuda(options);
  state_->device = select_device(options.device, options.local_rank);
  state_->loras = open_loras(state_->model, {});
  state_->stored = find_stored_model(state_->model);
  state_->dtype = select_dtype(options.dtype, state_->stored);
  state_->device_name = state_->device.is_cpu() ? "cpu" : state_->device.str();
  state_->dtype_name = steadyflux::dtype_name(state_->dtype);
  check_compute(select_compute(options.compute), state_->device);
  state_->num_threads = options.num_threads > 0
                            ? options.num_threads
                            : std::max(physical_cores() / std::max(options.processes_here, 1), 1);
  at::set_num_threads(state_->num_threads);
  state_->at_start = sample_process_memory();
}

Pipeline::~Pipeline() = default;
Pipeline::Pipeline(Pipeline&&) noexcept = default;
Pipeline& Pipeline::operator=(Pipeline&&) noexcept = default;

const std::string& Pipeline::device_name() const { return state_->device_name; }
const std::string& Pipeline::dtype_name() const { return state_->dtype_name; }
int Pipeline::num_threads() const { return state_->num_threads; }

void Pipeline::check(const Request& request) const {
  const auto multiple = state_->multiple();
  check_multiple("width", request.width, multiple);
  check_multiple("height", request.height, multiple);
  check_positive("steps", request.num_inference_steps);
  check_positive("num-images", request.num_images);
  if (request.max_sequence_length < 1 || request.max_sequence_length > 512) {
    throw Error(ErrorKind::kUsage, fmt::format("max-sequence-length {} is not in 1..512",
                                               request.max_sequence_length));
  }
  if (request.init_image) check_strength(request.init_image->strength);
  if (request.progressive) check_progressive(request, multiple);
  if (request.tile != 0) check_multiple("tile", request.tile, multiple);
  if (!std::isfinite(request.true_cfg_scale) || request.true_cfg_scale < 0) {
    throw Error(ErrorKind::kUsage,
                fmt::format("true-cfg-scale {} is no number, 0 or more", request.true_cfg_scale));
  }
  const auto& model = state_->find_loras(request.loras)->model;
  check_condition(model, request);
  check_redux_images(request, state_->model);
  check_sampling(request.sampling);
  const auto& sigmas = request.sampling.sigmas;
  if (!sigmas.empty() && static_cast<std::int64_t>(sigmas.size()) != request.num_inference_steps) {
    throw Error(ErrorKind::kUsage, fmt::format("{} sigmas for {} steps: expected one for each",
                                               sigmas.size(), request.num_inference_steps));
  }
  if (!sigmas.empty()) sigmas_to_do(state_->model, request);  // throws if the shift joins some
}

Plan Pipeline::plan(std::span<const Request> requests) const {
  for (const auto& request : requests) check(request);
  state_->take_loras(requests);
  const auto planned = last_stages(requests, state_->multiple());
  const auto setting = state_->setting(state_->workload(make_chunk(state_->loras->model, planned)));
  return make_plan(setting.model, setting.workload, setting.budget, setting.plan_options);
}

Request Pipeline::with_largest_size(Request request, const Aspect& aspect,
                                    const TimeLimit& limit) const {
  const auto factor = state_->multiple();
  const auto planned = last_stage(request, factor);
  request.width = request.height = factor;
  check(request);
  state_->take_loras({&request, 1});
  MachineSpeed speed;
  // Before memory is looked at: what libraries take for it stays.
  if (limit.max_seconds) {
    const auto compute = select_compute(state_->options.compute);
    speed = limit.tflops ? MachineSpeed{.flops = *limit.tflops * 1e12}
                         : measure_speed(state_->device, state_->dtype, compute);
  }
  auto setting = state_->setting(state_->workload(make_chunk(state_->loras->model, {&planned, 1})));
  // The process grows by as much until its picture is planned.
  constexpr std::int64_t kGrowth = std::int64_t{4} << 20;
  setting.budget.ram -= kGrowth;
  std::function<bool(const Plan&)> accepts;
  if (limit.max_seconds) accepts = within_seconds(setting.model, speed, *limit.max_seconds);
  const auto sides = largest_size(setting.model, setting.workload, setting.budget,
                                  setting.plan_options, aspect, accepts);
  if (!sides) {
    const auto plan =
        make_plan(setting.model, setting.workload, setting.budget, setting.plan_options);
    if (limit.max_seconds) throw_if_too_slow(setting.model, plan, speed, *limit.max_seconds);
    throw does_not_fit(setting.model, plan, setting.plan_options);
  }
  request.width = sides->width;
  request.height = sides->height;
  return request;
}

std::size_t Pipeline::chunk_size(std::span<const Request> requests) const {
  const auto planned = last_stages(requests, state_->multiple());
  const auto loras =
      state_->find_loras(planned.empty() ? std::vector<LoraUse>() : planned.front().loras);
  return best_chunk_size(loras->model, planned, state_->stored, state_->dtype_name,
                         state_->num_threads, state_->budget(state_->largest_area > 0),
                         plan_options(state_->options), state_->options.compute);
}

void Pipeline::take_loras(std::span<const Request> requests, Observer& observer) {
  const auto before = state_->loras;
  state_->take_loras(requests);
  if (state_->loras == before) return;
  for (const auto& warning : state_->loras->warnings) observer.warning(warning);
}

void Pipeline::generate(std::span<const Request> requests, Observer& observer,
                        const OnImage& on_image, PromptEmbedsStore* embeds, LatentsStore* latents) {
  if (state_->options.parts.encode_only) {
    throw Error(ErrorKind::kInternal, "a pipeline that only encodes was asked for pictures");
  }
  for (const auto& request : requests) check(request);
  for (const auto& request : requests) {
    if (!can_be_made_together(request, requests.front())) {
      throw Error(ErrorKind::kInternal, "requests with other LoRAs, stages or tiles in one go");
    }
  }
  if (!requests.empty() && stage_sizes(requests.front(), state_->multiple()).size() > 1) {
    generate_in_stages(*this, state_->multiple(), requests, observer, on_image, embeds, latents);
  } else {
    make_pictures(requests, observer, on_image, embeds, latents);
  }
}

void Pipeline::make_pictures(std::span<const Request> requests, Observer& observer,
                             const OnImage& on_image, PromptEmbedsStore* embeds,
                             LatentsStore* latents) {
  take_loras(requests, observer);
  const c10::InferenceMode inference_mode;
  const auto& model = state_->loras->model;
  const auto chunk = make_chunk(model, requests);
  auto embeddings = state_->find_embeddings(chunk, embeds);
  auto workload = state_->workload(chunk);
  const auto texts = chunk.texts();
  workload.num_encoded =
      std::count_if(texts.begin(), texts.end(), [&](auto i) { return !embeddings[i].defined(); });
  if (workload.num_encoded > 0) check_encoders(model);
  if (workload.num_redux_images > 0) check_redux(model);
  if (workload.encodes_images()) check_vae_encoder(model);
  std::vector<std::size_t> known;
  for (const auto i : texts) {
    if (embeddings[i].defined()) known.push_back(i);
  }
  warn_of_lost_text(model, chunk, known, observer);
  auto setting = state_->setting(workload);
  setting.latents = latents;
  PhaseRunner runner(std::move(setting), observer);
  if (!runner.plan().fits) {
    throw does_not_fit(model, runner.plan(), runner.plan_options());
  }
  observer.planned(runner.plan());
  const auto keep = [&](std::size_t prompt, const PromptEmbeddings& embeddings_of_it) {
    if (embeds == nullptr) return;
    embeds->put(to_stored(chunk.prompts[prompt], state_->dtype_name, embeddings_of_it));
  };
  auto state = begin_denoising(chunk, latents, model, state_->dtype);
  try {
    generate_pictures(model, chunk, std::move(embeddings), std::move(state), runner, on_image,
                      keep);
  } catch (...) {
    observer.memory_seen(runner.timeline());
    throw;
  }
  state_->largest_area = std::max(state_->largest_area, workload.width * workload.height);
  observer.memory_seen(runner.timeline());
}

void Pipeline::encode(
    std::span<const Request> requests, Observer& observer,
    const std::function<void(std::size_t request, const StoredEmbeds& embeds)>& on_embeds) {
  const c10::InferenceMode inference_mode;
  check_encoders(state_->model);
  take_loras(requests, observer);
  const auto chunk = make_chunk(state_->model, requests);
  auto workload = state_->workload(chunk);
  PhaseRunner runner(state_->setting(workload), observer);
  const auto& plan = runner.plan();
  const auto& phase = plan.phase("encode");
  if (!fits(phase, plan.budget)) {
    throw Error(
        ErrorKind::kDoesNotFit,
        fmt::format("encoding needs {} of RAM and {} of VRAM; there are {} and {}",
                    format_bytes(phase.ram_peak_bytes), format_bytes(phase.device_peak_bytes),
                    format_bytes(plan.budget.ram), format_bytes(plan.budget.vram)));
  }
  Encoded encoded;
  runner.run("encode", encode_steps(state_->model, workload.num_encoded, /*redux_images=*/0),
             [&](const PhaseContext& context) { steadyflux::encode(context, chunk, encoded); });
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const auto prompt = chunk.pictures[i].prompt;
    on_embeds(i, to_stored(chunk.prompts[prompt], state_->dtype_name, encoded.embeddings[prompt]));
  }
}

}  // namespace steadyflux
