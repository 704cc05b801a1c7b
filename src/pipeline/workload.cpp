#include "pipeline/workload.h"

#include <algorithm>
#include <filesystem>
#include <limits>

#include "base/cpu.h"
#include "lora/lora_file.h"
#include "quantization/dtype.h"
#include "scheduler/sampling_schedule.h"

namespace steadyflux {
namespace {

// What LoRAs add to it, told by what is in their files.
void add_loras(Workload& workload, std::span<const LoraUse> loras) {
  for (const auto& use : loras) {
    const auto lora = read_lora(use.path);
    workload.lora_bytes += static_cast<std::int64_t>(std::filesystem::file_size(use.path));
    for (const auto& target : lora.targets) {
      auto& stored = target.component == LoraComponent::kTransformer ? workload.stored.transformer
                     : target.component == LoraComponent::kTextEncoder
                         ? workload.stored.text_encoder
                         : workload.stored.text_encoder_2;
      stored.merged = !stored.packed;
    }
  }
}

// The picture that the request's pictures are shown, if there is one.
void add_condition(Workload& work, const Request& request) {
  const auto& condition = request.condition;
  if (!condition) return;
  work.image_load_bytes = std::max(work.image_load_bytes, condition->load_bytes);
  if (reference_of(request) == nullptr) {
    ++work.num_conditions;
    return;
  }
  ++work.num_references;
  if (condition->width * condition->height > work.reference_width * work.reference_height) {
    work.reference_width = condition->width;
    work.reference_height = condition->height;
  }
}

}  // namespace

std::string computed_dtype(const StoredWeights& transformer) {
  if (transformer.packed) return "bf16";
  if (transformer.dtype == "fp64") return "fp32";
  return dtype_of_compute_name(transformer.dtype) ? transformer.dtype : "bf16";
}

Workload make_workload(const Chunk& chunk, const StoredModel& stored, const std::string& dtype,
                       int num_threads, const std::string& compute) {
  Workload work;
  work.width = work.height = work.num_inference_steps = work.max_sequence_length = 0;
  for (const Request& request : chunk.requests) {
    if (request.width * request.height > work.width * work.height) {
      work.width = request.width;
      work.height = request.height;
    }
    work.tile = request.tile;
    work.num_inference_steps =
        std::max(work.num_inference_steps, request.num_inference_steps - skipped_steps(request));
    const auto evaluations = evaluations_per_step(request.sampling);
    work.passes_per_step = std::max(work.passes_per_step, evaluations);
    const std::int64_t kept = evaluations > 1 ? 2 : looks_back(request.sampling) ? 1 : 0;
    work.solver_latents = std::max(work.solver_latents, kept);
    work.max_sequence_length = std::max(work.max_sequence_length, request.max_sequence_length);
  }
  work.num_images = static_cast<std::int64_t>(chunk.pictures.size());
  work.num_prompts = static_cast<std::int64_t>(chunk.prompts.size());
  work.num_encoded = static_cast<std::int64_t>(chunk.texts().size());
  work.num_redux_images = static_cast<std::int64_t>(chunk.redux_images.size());
  work.redux_tokens = chunk.redux_tokens;
  for (const auto* image : chunk.redux_images) {
    work.redux_load_bytes = std::max(work.redux_load_bytes, image->load_bytes);
  }
  for (const auto& picture : chunk.pictures) {
    const auto& init = chunk.request(picture).init_image;
    work.num_init_images += init ? 1 : 0;
    work.num_masks += init && !init->mask.empty() ? 1 : 0;
    work.num_guided += picture.negative ? 1 : 0;
    const auto& sampling = chunk.request(picture).sampling;
    if (sampling.cache_threshold > 0) {
      work.num_step_caches +=
          static_cast<std::int64_t>(picture.texts().size()) * evaluations_per_step(sampling);
    }
    if (init) work.image_load_bytes = std::max(work.image_load_bytes, init->load_bytes);
    add_condition(work, chunk.request(picture));
  }
  work.num_tables = static_cast<std::int64_t>(chunk.tables.size());
  work.num_threads = num_threads;
  work.dtype = dtype != "auto" ? dtype : computed_dtype(stored.transformer);
  work.widened = (work.dtype == "bf16" && !cpu_multiplies_bf16()) ||
                 (work.dtype == "fp16" && !cpu_multiplies_fp16());
  work.compute = compute;
  work.stored = stored;
  if (!chunk.requests.empty()) add_loras(work, chunk.requests.front().loras);
  return work;
}

std::size_t best_chunk_size(const FluxModel& model, std::span<const Request> requests,
                            const StoredModel& stored, const std::string& dtype, int num_threads,
                            const Budget& budget, const PlanOptions& options,
                            const std::string& compute) {
  std::size_t best = 1;
  double best_cost = std::numeric_limits<double>::infinity();
  for (auto size = requests.size(); size > 0; size /= 2) {
    const auto workload =
        make_workload(make_chunk(model, requests.first(size)), stored, dtype, num_threads, compute);
    const auto plan = make_plan(model, workload, budget, options);
    if (!plan.fits) continue;
    const auto cost = static_cast<double>(traffic(plan)) / static_cast<double>(workload.num_images);
    if (cost >= best_cost) continue;
    best = size;
    best_cost = cost;
  }
  return best;
}

}  // namespace steadyflux
