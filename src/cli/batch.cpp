// steadyflux batch: a prompt file or a stream of prompts becomes the items of a Batch.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "batch/line_reader.h"
#include "batch/settings_key.h"
#include "cli/batch_items.h"
#include "cli/batch_overviews.h"
#include "cli/batch_run.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/embeds_store.h"
#include "cli/signals.h"
#include "memory/plan.h"
#include "memory/plan_advice.h"
#include "pipeline/planning.h"
#include "scheduler/sampling_schedule.h"
#include "sharing/rendezvous.h"
#include "sharing/work_share.h"

namespace steadyflux::cli {
namespace {

// The entries of the prompt file, or of the file of embeddings.
std::vector<std::pair<PromptEntry, std::string>> read_entries(const CommandLine& line,
                                                              const BatchJob& job) {
  std::vector<std::pair<PromptEntry, std::string>> entries;
  if (job.source.empty()) {
    if (line.typed.max_sequence_length) {
      throw Error(ErrorKind::kUsage,
                  "--max-sequence-length with --prompt-embeds: the file says it for each prompt");
    }
    const auto file = job.defaults.prompt_embeds.string();
    std::int64_t number = 0;
    for (const auto& prompt : embedded_prompts(file)) {
      PromptEntry entry;
      entry.prompt = prompt.prompt;
      entry.options["max-sequence-length"] = fmt::format("{}", prompt.max_sequence_length);
      entry.options["prompt-2"] = prompt.prompt_2;
      entries.emplace_back(std::move(entry), fmt::format("{}, prompt {}", file, ++number));
    }
    return entries;
  }
  for (auto& entry : read_prompt_file(job.source)) {
    const auto place = fmt::format("{}:{}", job.source, entry.line);
    entries.emplace_back(std::move(entry), place);
  }
  if (entries.empty()) {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: holds no prompts", job.source));
  }
  return entries;
}

// The same for requests of which one's plan tells whether the others fit.
std::string what_is_planned(const Request& r) {
  std::vector<std::int64_t> numbers{r.width,
                                    r.height,
                                    r.num_inference_steps,
                                    r.num_images,
                                    r.max_sequence_length,
                                    r.has_true_cfg() ? 1 : 0,
                                    evaluations_per_step(r.sampling),
                                    looks_back(r.sampling) ? 1 : 0,
                                    r.sampling.cache_threshold > 0 ? 1 : 0,
                                    r.progressive ? r.progressive->base : 0};
  if (const auto& init = r.init_image) {
    numbers.insert(numbers.end(), {1, init->load_bytes, init->mask.empty() ? 0 : 1});
  }
  if (const auto& shown = r.condition) {
    numbers.insert(numbers.end(), {2, shown->load_bytes, shown->width, shown->height});
  }
  for (const auto& image : r.redux_images) numbers.insert(numbers.end(), {3, image.load_bytes});
  auto text = fmt::format("{}", fmt::join(numbers, " "));
  for (const auto& lora : r.loras) text += fmt::format(" {}", lora.path.string());
  return text;
}

// Each size once: what does not fit is said before hours of work.
void check_fit(const std::vector<BatchItem>& items, const GenerateJob& job,
               const Pipeline& pipeline) {
  std::set<std::string> seen;
  for (const auto& item : items) {
    if (!seen.insert(what_is_planned(item.request)).second) continue;
    const auto plan = pipeline.plan({&item.request, 1});
    if (plan.fits) continue;
    const auto remedies =
        find_remedies(job.model, plan.workload, plan.budget, plan_options(job.pipeline));
    throw Error(ErrorKind::kDoesNotFit,
                fmt::format("{}: {}", item.place, does_not_fit_text(plan, remedies)));
  }
}

void throw_if_failures(const Batch& batch, const BatchJob& job) {
  if (batch.failures() == 0) return;
  const auto text = fmt::format("{} of the prompts failed; the others are done", batch.failures());
  throw Error(job.keep_going ? ErrorKind::kPartial : ErrorKind::kBadInput, text);
}

void run_file(const CommandLine& line, const BatchJob& job, Pipeline& pipeline, Console& console,
              const std::optional<Rendezvous>& rendezvous) {
  // Without the batch first: a bad line must not leave a folder and a journal behind.
  const auto entries = read_entries(line, job);
  std::vector<BatchItem> items;
  BatchItems maker(line, job, pipeline, model_hash_of(job.defaults));
  for (const auto& [entry, place] : entries) {
    for (auto& item : maker.add(entry, place)) items.push_back(std::move(item));
  }
  for (const auto& warning : maker.take_warnings()) console.warning(warning);
  if (!job.keep_going) check_fit(items, job.defaults, pipeline);
  Batch batch(job, pipeline, console, static_cast<std::int64_t>(items.size()));
  std::int64_t done = 0;
  check_overviews(job, items);
  for (const auto& item : items) {
    done += batch.check(item) ? 1 : 0;
  }
  batch.events().started(static_cast<std::int64_t>(items.size()), done);
  try {
    if (rendezvous) {
      nlohmann::json all = nlohmann::json::array();
      for (const auto& item : items) all.push_back({item.output, item.settings});
      WorkShare::Options options;
      options.interrupted = [] {
        throw_if_interrupted();
        return false;
      };
      options.notice = [&console](const std::string& text) { console.info(text); };
      WorkShare share(*rendezvous, static_cast<std::int64_t>(items.size()), settings_key(all),
                      options);
      if (rendezvous->rank >= 0) batch.events().add_rank(rendezvous->rank);
      batch.make_shared(items, share);
    } else {
      batch.make(items);
    }
    write_overviews(job, items, console);
    throw_if_failures(batch, job);
  } catch (const std::exception& error) {
    batch.events().finished(batch.made(), batch.skipped(), batch.failures(), error);
    throw;
  }
  batch.events().finished(batch.made(), batch.skipped(), batch.failures());
  console.info(fmt::format("{} made, {} were there already, in {}", batch.made(), batch.skipped(),
                           job.defaults.output));
}

// One line, or all that wait already.
std::vector<LineReader::Line> next_lines(LineReader& reader, std::size_t most) {
  std::vector<LineReader::Line> lines;
  while (lines.size() < most && (lines.empty() || reader.ready())) {
    auto line = reader.next();
    if (!line) break;
    lines.push_back(std::move(*line));
  }
  return lines;
}

void run_stream(const CommandLine& line, const BatchJob& job, Pipeline& pipeline,
                Console& console) {
  Batch batch(job, pipeline, console, std::nullopt);
  batch.events().started(0, 0);
  BatchItems maker(line, job, pipeline, model_hash_of(job.defaults));
  LineReader reader(STDIN_FILENO, kLongestPromptLine, [] { return pending_signal() != 0; });
  const auto most = job.prompt_by_prompt ? 1 : job.defaults.chunk_size;
  std::vector<BatchItem> all;
  const bool keep_items = !job.contact_sheet.empty() || !job.gallery.empty();
  const auto keep = [&](const std::vector<BatchItem>& items) {
    if (keep_items) all.insert(all.end(), items.begin(), items.end());
  };
  try {
    while (true) {
      const auto lines = next_lines(reader, most);
      throw_if_interrupted();
      if (lines.empty()) break;
      std::vector<BatchItem> items;
      for (const auto& text : lines) {
        try {
          if (text.too_long) {
            throw Error(ErrorKind::kBadInput,
                        fmt::format("line {}: has {} bytes, more than {}", text.number, text.length,
                                    kLongestPromptLine));
          }
          const auto entry = parse_prompt_line(text.text, text.number);
          if (!entry) continue;
          auto own = maker.add(*entry, fmt::format("line {}", text.number));
          for (const auto& warning : maker.take_warnings()) console.warning(warning);
          for (const auto& item : own) batch.check(item);
          std::move(own.begin(), own.end(), std::back_inserter(items));
        } catch (const Error& error) {
          // Answers come in the order of the lines.
          keep(items);
          batch.make(std::exchange(items, {}));
          batch.answer_error(text.number, error);
        }
      }
      keep(items);
      batch.make(std::move(items));
    }
    check_overviews(job, all);
    write_overviews(job, all, console);
    throw_if_failures(batch, job);
  } catch (const std::exception& error) {
    batch.events().finished(batch.made(), batch.skipped(), batch.failures(), error);
    throw;
  }
  batch.events().finished(batch.made(), batch.skipped(), batch.failures());
}

}  // namespace

void run_batch(const CommandLine& line) {
  BatchJob job = make_batch_job(line);
  Console console(job.defaults.verbosity);
  for (const std::string& warning : job.defaults.warnings) console.warning(warning);
  const bool is_stream = job.source == "-";
  const auto environment = [](const char* name) -> const char* { return std::getenv(name); };
  const auto rendezvous = find_rendezvous(environment, job.rendezvous);
  if (rendezvous && is_stream) {
    throw Error(ErrorKind::kUsage, "prompts from standard input cannot be shared: use a file");
  }
  if (rendezvous) {
    job.defaults.pipeline.local_rank =
        static_cast<int>(std::max<std::int64_t>(rendezvous->local_rank, 0));
    job.defaults.pipeline.processes_here = processes_here(environment);
  }
  Pipeline pipeline(job.defaults.pipeline);
  if (is_stream) {
    run_stream(line, job, pipeline, console);
  } else {
    run_file(line, job, pipeline, console, rendezvous);
  }
}

}  // namespace steadyflux::cli
