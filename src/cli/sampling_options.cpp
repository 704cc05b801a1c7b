#include "cli/sampling_options.h"

#include <fmt/format.h>

#include <cmath>

#include "base/utf8.h"
#include "cli/option_values.h"
#include "cli/parse_number.h"
#include "scheduler/other_programs.h"
#include "scheduler/sampling_schedule.h"

namespace steadyflux::cli {
namespace {

double parse_shift(const std::string& text) {
  const auto value = parse_number<double>(text);
  if (!value || !std::isfinite(*value)) {
    usage_error(fmt::format("--shift {}: expected a number above 0, up to {}, or auto",
                            printable(text), kLargestShift));
  }
  return *value;
}

double parse_cache_threshold(const std::string& text) {
  const auto value = parse_number<double>(text);
  if (!value || !(*value >= 0 && *value <= 1)) {
    usage_error(fmt::format("--cache-threshold {}: expected a number from 0 (never) to 1",
                            printable(text)));
  }
  return *value;
}

// How the words of `compat` change what a model asks for.
void apply_compat(GenerateJob& job, const std::string& compat) {
  job.request.sampling.compat = compat;
  const auto length = sequence_length_of(compat, job.model.transformer.guidance_embeds);
  job.request.max_sequence_length = length.value_or(job.model.defaults.max_sequence_length);
}

// Sigmas say how many steps there are. Steps that were typed go before sigmas from elsewhere.
void apply_sigmas(Request& request, const Layers& layers) {
  const auto& typed = layers.typed(&Options::sigmas);
  const auto& typed_steps = layers.typed(&Options::steps);
  auto& sigmas = request.sampling.sigmas;
  if (typed_steps && !typed) return sigmas.clear();
  if (const auto text = layers.picture(&Options::sigmas)) sigmas = parse_sigmas(*text);
  if (sigmas.empty()) return;
  const auto count = static_cast<std::int64_t>(sigmas.size());
  const bool both = typed ? typed_steps.has_value()
                          : layers.picture(&Options::sigmas) && layers.picture(&Options::steps);
  if (both && request.num_inference_steps != count) {
    usage_error(
        fmt::format("--steps {} with {} --sigmas, which are one for each step: leave "
                    "--steps out",
                    request.num_inference_steps, count));
  }
  request.num_inference_steps = count;
}

}  // namespace

std::vector<double> parse_sigmas(const std::string& text) {
  constexpr const char* kSeparators = ", \t\n";
  std::vector<double> sigmas;
  for (auto begin = text.find_first_not_of(kSeparators); begin != std::string::npos;) {
    const auto end = std::min(text.find_first_of(kSeparators, begin), text.size());
    const auto value = parse_number<double>(text.substr(begin, end - begin));
    if (!value || !std::isfinite(*value)) {
      usage_error(
          fmt::format("--sigmas {}: expected numbers such as 1,0.8,0.5,0.2", printable(text)));
    }
    sigmas.push_back(*value);
    begin = text.find_first_not_of(kSeparators, end);
  }
  if (sigmas.empty()) usage_error("--sigmas: expected numbers such as 1,0.8,0.5,0.2");
  return sigmas;
}

void apply_sampling(GenerateJob& job, const Layers& layers) {
  auto& sampling = job.request.sampling;
  if (const auto text = layers.picture(&Options::scheduler)) sampling.scheduler = *text;
  if (const auto text = layers.picture(&Options::compat)) apply_compat(job, *text);
  if (const auto text = layers.picture(&Options::shift)) {
    sampling.shift = *text == "auto" ? std::nullopt : std::optional(parse_shift(*text));
  }
  if (const auto text = layers.picture(&Options::cache_threshold)) {
    sampling.cache_threshold = parse_cache_threshold(*text);
  }
  apply_sigmas(job.request, layers);
  check_sampling(sampling);
}

}  // namespace steadyflux::cli
