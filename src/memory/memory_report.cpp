#include "memory/memory_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "base/utf8.h"
#include "memory/svg_elements.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

using Json = nlohmann::ordered_json;  // keys in the order in which they are written here

Json as_json(const DeviceSample& device) {
  return {{"allocated", device.allocated},
          {"reserved", device.reserved},
          {"alloc_retries", device.alloc_retries}};
}

Json as_json(const StallSample& stall) {
  return {{"some_avg10", stall.some_avg10},
          {"full_avg10", stall.full_avg10},
          {"some_total_us", stall.some_total},
          {"full_total_us", stall.full_total}};
}

Json as_json(const MemorySample& sample) {
  return {{"seconds", sample.seconds},
          {"phase", sample.phase < 0 ? Json(nullptr) : Json(sample.phase)},
          {"rss", sample.rss},
          {"rss_anon", sample.rss_anon},
          {"rss_file", sample.rss_file},
          {"swap", sample.swap},
          {"major_faults", sample.major_faults},
          {"disk_read", sample.disk_read},
          {"available", sample.available},
          {"cgroup_used", sample.cgroup_used ? Json(*sample.cgroup_used) : Json(nullptr)},
          {"swapped_in", sample.swapped_in},
          {"swapped_out", sample.swapped_out},
          {"stall", sample.stall ? as_json(*sample.stall) : Json(nullptr)},
          {"device", as_json(sample.device)}};
}

Json as_json(const PhaseRecord& phase) {
  const MemoryPeaks& peaks = phase.peaks;
  const auto or_null = [](std::int64_t value) { return value > 0 ? Json(value) : Json(nullptr); };
  return {{"name", phase.name},
          {"start", phase.start},
          {"end", phase.end},
          {"predicted",
           {{"ram", or_null(phase.predicted_ram)}, {"device", or_null(phase.predicted_device)}}},
          {"peaks",
           {{"rss", peaks.rss},
            {"rss_anon", peaks.rss_anon},
            {"rss_file", peaks.rss_file},
            {"swap", peaks.swap},
            {"device_allocated", peaks.device_allocated},
            {"device_reserved", peaks.device_reserved}}},
          {"counts",
           {{"major_faults", peaks.major_faults},
            {"disk_read", peaks.disk_read},
            {"swapped_in", peaks.swapped_in},
            {"swapped_out", peaks.swapped_out},
            {"alloc_retries", peaks.alloc_retries}}}};
}

// One sample a line: a file to grep in, of a tenth of the lines that full indentation takes.
std::string json_report(const MemoryTimeline& timeline) {
  const auto dump = [](const Json& json) {
    return json.dump(-1, ' ', false, Json::error_handler_t::replace);
  };
  const auto list = [&dump](const char* name, const auto& items, const auto& convert) {
    std::string text = fmt::format(",\n\"{}\": [", name);
    const char* separator = "\n  ";
    for (const auto& item : items) {
      text += separator + dump(convert(item));
      separator = ",\n  ";
    }
    return text + "\n]";
  };
  const Json budget = {
      {"ram", timeline.ram_budget > 0 ? Json(timeline.ram_budget) : Json(nullptr)},
      {"device", timeline.device_budget > 0 ? Json(timeline.device_budget) : Json(nullptr)}};
  std::string text = fmt::format("{{\n\"title\": {},\n\"seconds\": {},\n\"budget\": {}",
                                 dump(timeline.title), dump(timeline.seconds), dump(budget));
  const auto convert = [](const auto& item) { return as_json(item); };
  text += list("phases", timeline.phases, convert);
  text += list("events", timeline.events, [](const MemoryEvent& event) {
    return Json{{"seconds", event.seconds}, {"text", event.text}};
  });
  text += list("samples", timeline.samples, convert);
  return text + "\n}\n";
}

constexpr const char* kStyle = R"(
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
       color: #1f2933; background: #ffffff; margin: 24px auto; max-width: 1120px;
       padding: 0 16px; }
svg { width: 100%; height: auto; }
div { overflow-x: auto; }
table { border-collapse: collapse; margin: 20px 0; font-size: 12.5px;
        font-variant-numeric: tabular-nums; }
th, td { padding: 5px 7px; text-align: right; border-bottom: 1px solid #d9e2ec; }
td { white-space: nowrap; }
th { font-weight: 600; color: #52606d; border-bottom: 2px solid #9fb3c8; line-height: 1.25;
     vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
.over { color: #b42318; font-weight: 600; }
li { overflow-wrap: anywhere; }
)";

constexpr double kTolerated = 2;  // percent that a plan may promise too little

// Cells "predicted", "measured" and "off by", which is red if far more was needed than
// promised.
std::string measured_cells(std::int64_t predicted, std::int64_t measured) {
  const std::string bytes = measured > 0 ? format_bytes(measured) : "–";
  if (predicted <= 0) return fmt::format("<td>–</td><td>{}</td><td>–</td>", bytes);
  const double difference =
      100.0 * static_cast<double>(measured - predicted) / static_cast<double>(predicted);
  return fmt::format("<td>{}</td><td>{}</td><td{}>{:+.1f} %</td>", format_bytes(predicted), bytes,
                     difference > kTolerated ? " class=\"over\"" : "", difference);
}

std::string phase_table(const MemoryTimeline& timeline) {
  const bool device = has_device_numbers(timeline);
  std::string text =
      "<table>\n<tr><th>phase</th><th>seconds</th><th>RAM predicted</th><th>measured</th>"
      "<th>off by</th><th>anonymous</th><th>of files</th>";
  if (device) {
    text +=
        "<th>device predicted</th><th>measured</th><th>off by</th><th>reserved</th>"
        "<th>retries</th>";
  }
  text += "<th>read from disk</th><th>major faults</th><th>in swap</th></tr>\n";
  for (const PhaseRecord& phase : timeline.phases) {
    const MemoryPeaks& peaks = phase.peaks;
    text +=
        fmt::format("<tr><td>{}</td><td>{:.2f}</td>{}<td>{}</td><td>{}</td>", xml_text(phase.name),
                    phase.end - phase.start, measured_cells(phase.predicted_ram, peaks.rss),
                    format_bytes(peaks.rss_anon), format_bytes(peaks.rss_file));
    if (device) {
      text += fmt::format("{}<td>{}</td><td>{}</td>",
                          measured_cells(phase.predicted_device, peaks.device_allocated),
                          format_bytes(peaks.device_reserved), peaks.alloc_retries);
    }
    text += fmt::format("<td>{}</td><td>{}</td><td>{}</td></tr>\n", format_bytes(peaks.disk_read),
                        peaks.major_faults, format_bytes(peaks.swap));
  }
  return text + "</table>\n";
}

std::string html_report(const MemoryTimeline& timeline) {
  std::string text = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<title>{0}</title>\n<style>{1}</style>\n</head>\n<body>\n",
      xml_text(timeline.title.empty() ? "Memory" : timeline.title), kStyle);
  text += memory_drawing(timeline);
  text += "<div>\n" + phase_table(timeline) + "</div>\n";
  if (!timeline.events.empty()) {
    text += "<ul>\n";
    for (const MemoryEvent& event : timeline.events) {
      text += fmt::format("<li>{:.2f} s: {}</li>\n", event.seconds, xml_text(event.text));
    }
    text += "</ul>\n";
  }
  return text + "</body>\n</html>\n";
}

}  // namespace

MemoryReportFormat memory_report_format(const std::filesystem::path& path) {
  std::string extension = path.extension().string();
  for (char& c : extension) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (extension == ".json") return MemoryReportFormat::kJson;
  if (extension == ".svg") return MemoryReportFormat::kSvg;
  if (extension == ".html") return MemoryReportFormat::kHtml;
  throw Error(ErrorKind::kUsage,
              fmt::format("{}: a memory report is written as .svg, .html or .json; give it one of "
                          "these extensions",
                          printable(path.string())));
}

std::string memory_report(const MemoryTimeline& timeline, MemoryReportFormat format) {
  switch (format) {
    case MemoryReportFormat::kJson:
      return json_report(timeline);
    case MemoryReportFormat::kSvg:
      return memory_drawing(timeline);
    case MemoryReportFormat::kHtml:
      return html_report(timeline);
  }
  return {};
}

bool has_device_numbers(const MemoryTimeline& timeline) {
  const auto in_phase = [](const PhaseRecord& phase) {
    return phase.predicted_device > 0 || phase.peaks.device_reserved > 0;
  };
  const auto in_sample = [](const MemorySample& sample) { return sample.device.reserved > 0; };
  return std::any_of(timeline.phases.begin(), timeline.phases.end(), in_phase) ||
         std::any_of(timeline.samples.begin(), timeline.samples.end(), in_sample);
}

}  // namespace steadyflux
