#include "cli/run_events.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <utility>

#include "memory/monitor.h"
#include "memory/release.h"
#include "pipeline/device.h"
#include "pipeline/out_of_memory.h"

namespace steadyflux::cli {

RunEvents::RunEvents(const std::string& spec, const std::string& device, Console& console,
                     Observer& next)
    : next_(next) {
  if (spec.empty()) return;
  log_ = EventLog::open(spec, [&console](const std::string& text) { console.warning(text); });
  EventSources sources;
  if (device != "cpu") {
    sources.device = [on = c10::Device(device)] { return sample_device(on); };
  }
  events_ = std::make_unique<EventObserver>(*log_, next, std::move(sources));
}

void RunEvents::add_rank(std::int64_t rank) {
  if (log_) log_->add_to_all("rank", rank);
}

void RunEvents::started(std::int64_t pictures, std::int64_t skipped) {
  if (events_) events_->started(pictures, skipped);
}

void RunEvents::chunk_started(std::int64_t pictures) {
  last_picture_ = std::chrono::steady_clock::now();
  if (events_) events_->chunk_started(chunks_, pictures);
  ++chunks_;
}

void RunEvents::release_memory() {
  const auto before = sample_process_memory();
  release_host_memory();
  if (events_) events_->memory_released(before, sample_process_memory());
}

double RunEvents::picture(std::int64_t index, std::int64_t prompt_index, const std::string& output,
                          std::uint64_t seed, const std::optional<PassCounts>& passes) {
  const auto now = std::chrono::steady_clock::now();
  const double seconds =
      std::chrono::duration<double>(now - std::exchange(last_picture_, now)).count();
  if (events_) events_->picture({index, prompt_index, output, seed, seconds, passes});
  return seconds;
}

void RunEvents::failed(const std::exception& error, std::optional<std::int64_t> prompt_index) {
  if (events_) events_->error(as_error(error), prompt_index);
}

void RunEvents::finished(std::int64_t pictures, std::int64_t skipped, std::int64_t failed) {
  finish(pictures, skipped, failed, 0);
}

void RunEvents::finished(std::int64_t pictures, std::int64_t skipped, std::int64_t failed,
                         const std::exception& error) {
  const auto* ours = dynamic_cast<const Error*>(&error);  // Interrupted knows its signal
  finish(pictures, skipped, failed, ours ? ours->exit_code() : as_error(error).exit_code());
}

void RunEvents::finish(std::int64_t pictures, std::int64_t skipped, std::int64_t failed,
                       int exit_code) {
  if (events_) events_->finished({pictures, skipped, failed, exit_code});
}

Error as_error(const std::exception& error) {
  if (const auto* ours = dynamic_cast<const Error*>(&error)) return *ours;
  if (const auto detail = out_of_memory_detail(error)) {
    return {ErrorKind::kDoesNotFit,
            fmt::format("out of memory{}: use a smaller --width and --height, or free memory; "
                        "steadyflux doctor tells what there is",
                        detail->empty() ? "" : fmt::format(" ({})", *detail))};
  }
  if (const auto* libtorch = dynamic_cast<const c10::Error*>(&error)) {
    const std::string text = libtorch->what_without_backtrace();
    return {ErrorKind::kInternal, fmt::format("libtorch: {}", text.substr(0, text.find('\n')))};
  }
  return {ErrorKind::kInternal, error.what()};
}

}  // namespace steadyflux::cli
