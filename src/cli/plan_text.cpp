#include "cli/plan_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/bytes.h"
#include "pipeline/dtypes.h"

namespace steadyflux::cli {
namespace {

constexpr std::int64_t kMiB = std::int64_t{1} << 20;
constexpr std::int64_t kGiB = std::int64_t{1} << 30;

// Rounded up, so that this much is enough when it is typed.

std::string plural(std::int64_t count, const char* word) {
  return fmt::format("{} {}{}", count, word, count == 1 ? "" : "s");
}

// One unit for a whole table, so that its columns can be compared by eye.
class TableUnit {
 public:
  explicit TableUnit(std::int64_t largest) : is_gib_(largest >= kGiB) {}
  const char* name() const { return is_gib_ ? "GiB" : "MiB"; }
  std::string operator()(std::int64_t bytes) const {
    if (bytes == 0) return "-";
    return fmt::format("{:.2f}",
                       static_cast<double>(bytes) / static_cast<double>(is_gib_ ? kGiB : kMiB));
  }

 private:
  bool is_gib_;
};

std::string heading(const Plan& plan, const PlanTitle& title) {
  const Workload& work = plan.workload;
  auto steps = plural(work.num_inference_steps, "step");
  if (work.passes_per_step > 1) steps += fmt::format(" of {} passes", work.passes_per_step);
  if (work.tile > 0) steps = fmt::format("tiles of {}, {}", work.tile, steps);
  std::string text = fmt::format("{}: {} of {} x {}, {}, {}, {} on {}\n", title.model,
                                 plural(work.num_images, "picture"), work.width, work.height, steps,
                                 plural(work.max_sequence_length, "T5 token"),
                                 dtype_text(work.dtype, work.compute), title.device);
  if (work.num_references > 0) {
    text +=
        fmt::format("beside a reference of {} x {}\n", work.reference_width, work.reference_height);
  }
  if (work.num_redux_images > 0) {
    text += fmt::format("with {} of {} behind the prompt\n", plural(work.redux_tokens, "token"),
                        work.num_redux_images == 1 ? std::string("a picture")
                                                   : plural(work.num_redux_images, "picture"));
  }
  if (work.num_prompts > 1 || title.chunks > 1) {
    text += fmt::format("in one go {}, in all {}\n", plural(work.num_prompts, "prompt"),
                        plural(title.chunks, "chunk"));
  }
  const auto budget = [](std::int64_t bytes, const std::string& reason) {
    return reason.empty() ? format_bytes(bytes) : reason;
  };
  if (plan.budget.has_device) {
    text += fmt::format("VRAM budget {}\n", budget(plan.budget.vram, title.vram_reason));
  }
  text += fmt::format("RAM budget {}\n", budget(plan.budget.ram, title.ram_reason));
  return text + "\n";
}

std::int64_t resident_bytes(const WeightsPlan& weights) {
  return weights.fixed_bytes +
         (weights.mapped ? weights.total_bytes() : weights.bytes(UnitPlace::kResident));
}

// Empty cells are those that say nothing in this line.
std::string table_row(const std::vector<std::string>& cells, bool has_device) {
  constexpr std::size_t kWidths[] = {16, 9, 7, 8, 8, 8, 8, 8, 8};
  std::string row = fmt::format("{:<{}}", cells[0], kWidths[0]);
  for (std::size_t i = 1; i < cells.size(); ++i) {
    const bool only_with_device = i == 2 || i == 6;
    if (only_with_device && !has_device) continue;
    row += fmt::format("{:>{}}", cells[i], kWidths[i]);
  }
  row.erase(row.find_last_not_of(' ') + 1);
  return row + "\n";
}

std::string table(const Plan& plan) {
  const bool has_device = plan.budget.has_device;
  const TableUnit unit(std::max(plan.device_peak_bytes, plan.ram_peak_bytes));
  std::string text = table_row(
      {"phase", "resident", "in RAM", "on disk", "buffers", "activ.", "VRAM", "RAM", "read"},
      has_device);
  const auto held = [&unit](const WeightsPlan& weights) -> std::vector<std::string> {
    return {unit(resident_bytes(weights)), unit(weights.bytes(UnitPlace::kHost)),
            unit(weights.mapped ? 0 : weights.file_bytes(UnitPlace::kDisk)),
            unit(weights.buffers * weights.buffer_bytes)};
  };
  for (const PhasePlan& phase : plan.phases) {
    std::vector<std::string> cells = {phase.name};
    const auto first =
        phase.weights.size() == 1 ? held(phase.weights.front()) : std::vector<std::string>(4);
    cells.insert(cells.end(), first.begin(), first.end());
    for (const std::int64_t bytes :
         {has_device ? phase.device_activations : phase.host_activations, phase.device_peak_bytes,
          phase.ram_peak_bytes, phase.disk_read_bytes}) {
      cells.push_back(unit(bytes));
    }
    text += table_row(cells, has_device);
    if (phase.weights.size() == 1) continue;
    for (const WeightsPlan& weights : phase.weights) {  // one after the other
      std::vector<std::string> part = {" " + weights.component};
      const auto more = held(weights);
      part.insert(part.end(), more.begin(), more.end());
      text += table_row(part, has_device);
    }
  }
  return text + fmt::format("({}; {} with all that is beside the weights)\n\n", unit.name(),
                            has_device ? "VRAM and RAM are peaks" : "RAM is the peak");
}

// `value` of `scale` in `cells` characters. What goes beyond the budget stands behind a mark.
std::string bar(std::int64_t value, std::int64_t budget, std::int64_t scale, std::size_t cells,
                bool unicode) {
  const char* const kEighths[] = {"",       "\u258f", "\u258e", "\u258d",
                                  "\u258c", "\u258b", "\u258a", "\u2589"};
  const auto share = [scale, cells](std::int64_t bytes) {
    return scale <= 0 ? 0.0
                      : static_cast<double>(bytes) / static_cast<double>(scale) *
                            static_cast<double>(cells);
  };
  const std::size_t steps = unicode ? 8 : 1;
  auto filled = static_cast<std::size_t>(std::lround(share(value) * static_cast<double>(steps)));
  filled = std::min(std::max<std::size_t>(filled, value > 0 ? 1 : 0), cells * steps);
  const auto mark = budget < scale ? static_cast<std::size_t>(share(budget)) : cells;
  std::string text;
  for (std::size_t i = 0; i < cells; ++i) {
    if (i == mark) {
      text += unicode ? "\u2502" : "|";
    } else if ((i + 1) * steps <= filled) {
      text += unicode ? "\u2588" : "#";
    } else if (i * steps < filled) {
      text += kEighths[filled - i * steps];
    } else {
      text += unicode ? "\u2591" : ".";
    }
  }
  return text;
}

std::string chart(const Plan& plan, const TextStyle& style) {
  std::size_t names = 9;
  for (const PhasePlan& phase : plan.phases) names = std::max(names, phase.name.size() + 1);
  const std::size_t beside = names + 5 + 2 + 11;  // labels, and the peak in numbers
  const std::size_t width = std::clamp<std::size_t>(style.width, 40, 120);
  const std::size_t cells = width - beside - 1;  // some terminals wrap a full line
  const auto line = [&](const std::string& phase, const char* kind, std::int64_t peak,
                        std::int64_t budget, std::int64_t largest) {
    return fmt::format("{:<{}}{:<5}{}  {}\n", phase, names, kind,
                       bar(peak, budget, std::max(budget, largest), cells, style.unicode),
                       format_bytes(peak));
  };
  std::string text;
  for (const PhasePlan& phase : plan.phases) {
    if (plan.budget.has_device) {
      text += line(phase.name, "VRAM", phase.device_peak_bytes, plan.budget.vram,
                   plan.device_peak_bytes);
    }
    text += line(plan.budget.has_device ? "" : phase.name, "RAM", phase.ram_peak_bytes,
                 plan.budget.ram, plan.ram_peak_bytes);
  }
  return text + "\n";
}

std::string how_often(const PhasePlan& phase, const WeightsPlan& weights) {
  if (phase.name == "denoise") return "in every step";
  if (weights.passes == 1) return "once";
  return phase.name == "decode" ? "for every picture"
                                : fmt::format("in each of {} passes", weights.passes);
}

// "transformer: 41 of 133 units resident, 8.20 GiB; 92 read from disk in every step, 11.10 GiB"
std::string residency(const PhasePlan& phase, const WeightsPlan& weights) {
  const auto units = static_cast<std::int64_t>(weights.units.size());
  const std::int64_t all = weights.total_bytes() + weights.fixed_bytes;
  if (weights.mapped) {
    return fmt::format("{}: used in place, {} of mapped files\n", weights.component,
                       format_bytes(all));
  }
  if (units == 0) return fmt::format("{}: resident, {}\n", weights.component, format_bytes(all));
  std::vector<std::string> parts;
  const auto add = [&](UnitPlace place, const std::string& what, std::int64_t bytes) {
    const std::int64_t count = weights.count(place);
    if (count == 0) return;
    // Only the first part says how many there are in all.
    parts.push_back(fmt::format("{}{} {}, {}", count,
                                parts.empty() ? fmt::format(" of {}", plural(units, "unit")) : "",
                                what, format_bytes(bytes)));
  };
  const std::string often = how_often(phase, weights);
  add(UnitPlace::kResident, "resident", weights.bytes(UnitPlace::kResident));
  add(UnitPlace::kHost, "copied from RAM " + often, weights.bytes(UnitPlace::kHost));
  add(UnitPlace::kDisk, "read from disk " + often, weights.file_bytes(UnitPlace::kDisk));
  return fmt::format("{}: {}\n", weights.component, fmt::join(parts, "; "));
}

std::string vae_line(const Plan& plan) {
  if (!plan.vae.tiled) return "decoding: the whole picture at once\n";
  return fmt::format("decoding: bands of {} of pixels{}\n", plural(plan.vae.band_rows, "row"),
                     plan.vae.parked_in_ram ? ", the rest waits in RAM" : "");
}

Json units_json(const WeightsPlan& weights) {
  Json json;
  for (const auto& [name, place] :
       {std::pair{"resident", UnitPlace::kResident}, std::pair{"host", UnitPlace::kHost},
        std::pair{"disk", UnitPlace::kDisk}}) {
    json[name] = {{"count", weights.count(place)},
                  {"bytes", weights.bytes(place)},
                  {"file_bytes", weights.file_bytes(place)}};
  }
  return json;
}

Json phase_json(const PhasePlan& phase) {
  Json json = {{"name", phase.name},
               {"device_peak_bytes", phase.device_peak_bytes},
               {"ram_peak_bytes", phase.ram_peak_bytes},
               {"device_activation_bytes", phase.device_activations},
               {"host_activation_bytes", phase.host_activations},
               {"disk_read_bytes", phase.disk_read_bytes},
               {"weights", Json::array()}};
  for (const WeightsPlan& weights : phase.weights) {
    json["weights"].push_back({{"component", weights.component},
                               {"units", units_json(weights)},
                               {"fixed_bytes", weights.fixed_bytes},
                               {"mapped", weights.mapped},
                               {"buffers", weights.buffers},
                               {"buffer_bytes", weights.buffer_bytes},
                               {"passes", weights.passes}});
  }
  return json;
}

Json workload_json(const Workload& work) {
  return {{"width", work.width},
          {"height", work.height},
          {"tile", work.tile},
          {"steps", work.num_inference_steps},
          {"passes_per_step", work.passes_per_step},
          {"num_images", work.num_images},
          {"num_guided", work.num_guided},
          {"num_step_caches", work.num_step_caches},
          {"num_prompts", work.num_prompts},
          {"num_encoded", work.num_encoded},
          {"max_sequence_length", work.max_sequence_length},
          {"reference", work.num_references > 0 ? Json{{"width", work.reference_width},
                                                       {"height", work.reference_height}}
                                                : Json(nullptr)},
          {"redux", work.num_redux_images > 0
                        ? Json{{"images", work.num_redux_images}, {"tokens", work.redux_tokens}}
                        : Json(nullptr)},
          {"threads", work.num_threads},
          {"dtype", work.dtype},
          {"compute", work.compute},
          {"stored_dtypes",
           {{"text_encoder", work.stored.text_encoder.dtype},
            {"text_encoder_2", work.stored.text_encoder_2.dtype},
            {"transformer", work.stored.transformer.dtype},
            {"vae", work.stored.vae.dtype}}}};
}

}  // namespace

std::string plan_text(const Plan& plan, const PlanTitle& title, const TextStyle& style) {
  std::string text = heading(plan, title) + table(plan) + chart(plan, style);
  for (const PhasePlan& phase : plan.phases) {
    for (const WeightsPlan& weights : phase.weights) text += residency(phase, weights);
  }
  if (plan.workload.num_guided > 0) {
    text += "transformer: computes each step twice, for the prompt and for the negative prompt\n";
  }
  if (plan.denoise_group > 1) {
    text += fmt::format("transformer: {} go through a unit in turn while it is there\n",
                        plural(plan.denoise_group, "picture"));
  }
  if (plan.workload.num_step_caches > 0) {
    text +=
        "step caching: every pass is counted as a whole one; what will be reused is not known\n";
  }
  text += vae_line(plan);
  if (title.seconds) text += fmt::format("about {:.2g} seconds for a picture\n", *title.seconds);
  text += fmt::format("read from disk: {} per step, {} in all; the files have {}\n",
                      format_bytes(plan.disk_read_bytes_per_step),
                      format_bytes(plan.disk_read_bytes), format_bytes(plan.disk_bytes));
  return text;
}

Json plan_json(const Plan& plan, const PlanTitle& title, const std::optional<Remedies>& remedies) {
  Json json = {{"fits", plan.fits},
               {"device_peak_bytes", plan.device_peak_bytes},
               {"ram_peak_bytes", plan.ram_peak_bytes},
               {"disk_read_bytes_per_step", plan.disk_read_bytes_per_step},
               {"disk_read_bytes", plan.disk_read_bytes},
               {"disk_bytes", plan.disk_bytes},
               {"model", title.model},
               {"device", title.device},
               {"budget",
                {{"vram", plan.budget.has_device ? Json(plan.budget.vram) : Json(nullptr)},
                 {"ram", plan.budget.ram},
                 {"ram_base", plan.budget.ram_base},
                 {"device_context", plan.budget.device_context}}},
               {"workload", workload_json(plan.workload)},
               {"vae",
                {{"tiled", plan.vae.tiled},
                 {"band_rows", plan.vae.band_rows},
                 {"band_bytes", plan.vae.tiled ? Json(plan.vae.band_bytes) : Json(nullptr)},
                 {"parked_in_ram", plan.vae.parked_in_ram}}},
               {"modulation_rows", plan.modulation_rows},
               {"encode_group", plan.encode_group},
               {"denoise_group", plan.denoise_group},
               {"chunks", title.chunks},
               {"estimated_seconds", title.seconds ? Json(*title.seconds) : Json(nullptr)},
               {"leanest", plan.leanest},
               {"units", nullptr},  // of the transformer while denoising
               {"phases", Json::array()}};
  for (const PhasePlan& phase : plan.phases) {
    json["phases"].push_back(phase_json(phase));
    if (phase.name == "denoise" && !phase.weights.empty()) {
      json["units"] = units_json(phase.weights.front());
    }
  }
  json["alternatives"] = nullptr;
  if (remedies) {
    json["alternatives"] = {{"vram", remedies->alone.vram},
                            {"ram", remedies->alone.ram},
                            {"width", remedies->alone.width},
                            {"height", remedies->alone.height},
                            {"together", {{"vram", remedies->vram}, {"ram", remedies->ram}}}};
  }
  return json;
}

}  // namespace steadyflux::cli
