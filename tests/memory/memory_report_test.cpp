#include "memory/memory_report.h"

#include <gtest/gtest.h>

#include <cctype>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "expect_error.h"

namespace steadyflux {
namespace {

constexpr std::int64_t kGiB = std::int64_t{1} << 30;

// Two phases of ten samples, with device numbers.
MemoryTimeline made_up() {
  MemoryTimeline timeline;
  timeline.title = "a cat";
  timeline.seconds = 20;
  timeline.ram_budget = 8 * kGiB;
  timeline.device_budget = 6 * kGiB;
  for (int phase : {0, 1}) {
    PhaseRecord record;
    record.name = phase == 0 ? "encode" : "denoise";
    record.start = 10 * phase;
    record.end = 10 * phase + 9;
    record.predicted_ram = 4 * kGiB;
    record.predicted_device = 5 * kGiB;
    record.peaks.rss = phase == 0 ? 3 * kGiB : 5 * kGiB;
    record.peaks.device_allocated = 4 * kGiB;
    record.peaks.device_reserved = 5 * kGiB;
    record.peaks.major_faults = 17;
    timeline.phases.push_back(record);
    for (int i = 0; i < 10; ++i) {
      MemorySample sample;
      sample.seconds = 10 * phase + i;
      sample.phase = phase;
      sample.rss = record.peaks.rss * (i + 1) / 10;
      sample.rss_anon = sample.rss / 2;
      sample.device.allocated = record.peaks.device_allocated * (i + 1) / 10;
      sample.device.reserved = record.peaks.device_reserved;
      timeline.samples.push_back(sample);
    }
  }
  timeline.events.push_back({12.5, "a new plan"});
  return timeline;
}

int count(std::string_view text, std::string_view part) {
  int n = 0;
  for (std::size_t at = text.find(part); at != std::string_view::npos;
       at = text.find(part, at + part.size())) {
    ++n;
  }
  return n;
}

// What is wrong with `text` as XML; "" if nothing. Knows what the drawing uses: elements with
// attributes in double quotes, text, entities.
std::string xml_problem(std::string_view text) {
  std::vector<std::string> open;
  std::size_t i = 0;
  while (i < text.size()) {
    if (text[i] == '&') {
      const std::size_t end = text.find(';', i);
      if (end == std::string_view::npos || end - i > 6) return "a bare &";
      i = end + 1;
    } else if (text[i] != '<') {
      if (open.empty() && !std::isspace(static_cast<unsigned char>(text[i]))) return "text outside";
      if (static_cast<unsigned char>(text[i]) < 0x20 && text[i] != '\n')
        return "a control character";
      ++i;
    } else {
      bool quoted = false;
      std::size_t end = i + 1;
      for (; end < text.size() && (quoted || text[end] != '>'); ++end) {
        if (text[end] == '<') return "< within a tag";
        if (text[end] == '"') quoted = !quoted;
      }
      if (end == text.size()) return "a tag without an end";
      const std::string_view tag = text.substr(i + 1, end - i - 1);
      const std::string name(tag.substr(0, tag.find_first_of(" /\n", 1)));
      if (tag.front() == '/') {
        if (open.empty() || "/" + open.back() != tag) return "wrong end " + std::string(tag);
        open.pop_back();
      } else if (tag.back() != '/') {
        open.push_back(name);
      }
      i = end + 1;
    }
  }
  return open.empty() ? "" : "not closed: " + open.back();
}

// The values of one attribute in all elements of a kind that contain `with`.
std::vector<double> values(std::string_view svg, const std::string& element,
                           const std::string& with, const std::string& attribute) {
  std::vector<double> found;
  for (std::size_t at = svg.find("<" + element + " "); at != std::string_view::npos;
       at = svg.find("<" + element + " ", at + 1)) {
    const std::string tag(svg.substr(at, svg.find('>', at) - at));
    if (tag.find(with) == std::string::npos) continue;
    const std::size_t value = tag.find(" " + attribute + "=\"");
    if (value != std::string::npos)
      found.push_back(std::stod(tag.substr(value + attribute.size() + 3)));
  }
  return found;
}

constexpr const char* kDashes = "stroke-dasharray=\"7 4\"";

TEST(MemoryReport, FormatByExtension) {
  EXPECT_EQ(memory_report_format("a/report.json"), MemoryReportFormat::kJson);
  EXPECT_EQ(memory_report_format("report.svg"), MemoryReportFormat::kSvg);
  EXPECT_EQ(memory_report_format("REPORT.HTML"), MemoryReportFormat::kHtml);
  for (const char* path : {"report", "report.png", "json", ".svg", "report.svg.gz", ""}) {
    expect_error(ErrorKind::kUsage, ".svg, .html or .json", [path] { memory_report_format(path); });
  }
}

TEST(MemoryReport, JsonHasAllNumbers) {
  MemoryTimeline timeline = made_up();
  timeline.samples[3].stall = StallSample{.some_avg10 = 1.5, .full_avg10 = 0.5, .full_total = 9};
  timeline.samples[3].cgroup_used = 77;
  timeline.samples[4].phase = -1;
  timeline.phases[1].predicted_device = 0;
  timeline.title = "\"quoted\"\n\xff";  // not UTF-8
  const auto json = nlohmann::json::parse(memory_report(timeline, MemoryReportFormat::kJson));
  EXPECT_EQ(json["title"], "\"quoted\"\n\xef\xbf\xbd");
  EXPECT_EQ(json["seconds"], 20);
  EXPECT_EQ(json["budget"]["ram"], 8 * kGiB);
  ASSERT_EQ(json["phases"].size(), 2u);
  EXPECT_EQ(json["phases"][0]["name"], "encode");
  EXPECT_EQ(json["phases"][0]["predicted"]["ram"], 4 * kGiB);
  EXPECT_EQ(json["phases"][0]["peaks"]["rss"], 3 * kGiB);
  EXPECT_EQ(json["phases"][0]["peaks"]["device_reserved"], 5 * kGiB);
  EXPECT_EQ(json["phases"][0]["counts"]["major_faults"], 17);
  EXPECT_TRUE(json["phases"][1]["predicted"]["device"].is_null());
  EXPECT_EQ(json["events"][0]["text"], "a new plan");
  ASSERT_EQ(json["samples"].size(), 20u);
  EXPECT_EQ(json["samples"][9]["rss"], 3 * kGiB);
  EXPECT_EQ(json["samples"][9]["device"]["allocated"], 4 * kGiB);
  EXPECT_EQ(json["samples"][3]["stall"]["full_total_us"], 9);
  EXPECT_EQ(json["samples"][3]["cgroup_used"], 77);
  EXPECT_TRUE(json["samples"][2]["stall"].is_null());
  EXPECT_TRUE(json["samples"][4]["phase"].is_null());
  EXPECT_EQ(json["samples"][12]["phase"], 1);
}

TEST(MemoryReport, EmptyTimelines) {
  const MemoryTimeline empty;
  const auto json = nlohmann::json::parse(memory_report(empty, MemoryReportFormat::kJson));
  EXPECT_TRUE(json["samples"].empty());
  EXPECT_TRUE(json["budget"]["ram"].is_null());
  for (const auto format : {MemoryReportFormat::kSvg, MemoryReportFormat::kHtml}) {
    const std::string text = memory_report(empty, format);
    EXPECT_EQ(text.find("nan"), std::string::npos);
    EXPECT_EQ(text.find("inf\""), std::string::npos);
  }
  EXPECT_EQ(xml_problem(memory_drawing(empty)), "");
}

TEST(MemoryReport, DrawingHasPhasesPredictionsAndBudgets) {
  const std::string svg = memory_report(made_up(), MemoryReportFormat::kSvg);
  EXPECT_EQ(xml_problem(svg), "");
  EXPECT_EQ(svg.rfind("<svg xmlns=\"http://www.w3.org/2000/svg\"", 0), 0u);
  EXPECT_EQ(count(svg, "<polygon"), 4);       // two curves in each panel
  EXPECT_EQ(count(svg, kDashes), 2 * 2 + 1);  // and the legend
  EXPECT_GE(count(svg, ">encode 9 s<"), 1);
  EXPECT_GE(count(svg, ">denoise 9 s<"), 1);
  for (const char* text : {">a cat</title>", "GiB<", ">seconds<", ">8.00 GiB<", ">6.00 GiB<",
                           "12.50 s: a new plan", ">5.00 GiB<"}) {
    EXPECT_GE(count(svg, text), 1) << text;
  }
}

TEST(MemoryReport, LinesLieWhereTheirBytesAre) {
  const std::string svg = memory_drawing(made_up());
  // Predictions of the RAM panel come first: both phases 4 GiB. Grid lines give the scale.
  const auto dashed = values(svg, "line", kDashes, "y1");
  ASSERT_EQ(dashed.size(), 5u);
  EXPECT_EQ(dashed[1], dashed[2]);
  const auto budget = values(svg, "line", "stroke=\"#b42318\"", "y1");
  ASSERT_EQ(budget.size(), 3u);  // legend, RAM, device
  const double zero = values(svg, "line", "stroke=\"#9fb3c8\"", "y1")[0];
  // 8 GiB is twice as high as 4 GiB; coordinates have one decimal.
  EXPECT_NEAR(zero - budget[1], 2 * (zero - dashed[1]), 0.3);
  const auto begin = values(svg, "line", kDashes, "x1");
  const auto end = values(svg, "line", kDashes, "x2");
  EXPECT_NEAR(begin[2] - begin[1], (end[1] - begin[1]) / 9 * 10, 0.3);  // 10 s and 9 s
}

TEST(MemoryReport, WithoutADeviceThereIsOnePanel) {
  MemoryTimeline timeline = made_up();
  for (MemorySample& sample : timeline.samples) sample.device = {};
  for (PhaseRecord& phase : timeline.phases) {
    phase.predicted_device = 0;
    phase.peaks.device_allocated = phase.peaks.device_reserved = 0;
  }
  EXPECT_FALSE(has_device_numbers(timeline));
  const std::string svg = memory_drawing(timeline);
  EXPECT_EQ(count(svg, "<polygon"), 2);
  EXPECT_EQ(count(svg, "reserved"), 0);
  EXPECT_EQ(count(memory_report(timeline, MemoryReportFormat::kHtml), "retries"), 0);
}

TEST(MemoryReport, ABudgetFarAboveDoesNotFlattenTheCurves) {
  MemoryTimeline timeline = made_up();
  const auto height = [&timeline] {
    const std::string svg = memory_drawing(timeline);
    return values(svg, "line", "stroke=\"#9fb3c8\"", "y1")[0] -
           values(svg, "line", kDashes, "y1")[1];
  };
  timeline.ram_budget = 0;
  const double without = height();
  timeline.ram_budget = 500 * kGiB;
  EXPECT_EQ(height(), without);
  EXPECT_EQ(count(memory_drawing(timeline), ">500.00 GiB<"), 1);
}

TEST(MemoryReport, HostileTextStaysText) {
  MemoryTimeline timeline = made_up();
  timeline.title = "</title><script>alert(1)</script> & \"x\"\x01\x1b[31m";
  timeline.phases[0].name = "<b>\xc3\x28";  // broken UTF-8
  timeline.phases[1].name = std::string(300, 'x');
  timeline.events[0].text = std::string(400, '<');
  const std::string svg = memory_drawing(timeline);
  EXPECT_EQ(xml_problem(svg), "");
  EXPECT_EQ(svg.find("<script"), std::string::npos);
  const std::string html = memory_report(timeline, MemoryReportFormat::kHtml);
  EXPECT_EQ(html.find("<script"), std::string::npos);
  EXPECT_EQ(html.find("<b>"), std::string::npos);
  EXPECT_EQ(html.find('\x1b'), std::string::npos);
  EXPECT_EQ(html.find('\xc3'), std::string::npos);
}

TEST(MemoryReport, PageHasTheDrawingAndATable) {
  const std::string html = memory_report(made_up(), MemoryReportFormat::kHtml);
  EXPECT_EQ(html.rfind("<!DOCTYPE html>", 0), 0u);
  EXPECT_NE(html.find(memory_drawing(made_up())), std::string::npos);
  EXPECT_EQ(count(html, "<tr>"), 3);
  EXPECT_EQ(count(html, "<td>-25.0 %</td>"), 1);  // 3 of 4 GiB
  EXPECT_EQ(count(html, "<td class=\"over\">+25.0 %</td>"), 1);
  EXPECT_EQ(count(html, "src=") + count(html, "href="), 0);  // nothing from elsewhere
}

TEST(MemoryReport, LongRunsAreDrawnWithinBounds) {
  MemoryTimeline timeline;
  double resolution = 0;
  for (int i = 0; i < 200; ++i) {
    PhaseRecord phase;
    phase.name = "decode";
    phase.start = 50 * i;
    phase.end = 50 * i + 49;
    phase.peaks.rss = kGiB;
    timeline.phases.push_back(phase);
    for (int j = 0; j < 50; ++j) {
      MemorySample sample;
      sample.seconds = 50 * i + j;
      sample.phase = i;
      sample.rss = sample.rss_anon = j == 20 && i == 100 ? 9 * kGiB : kGiB;
      add_sample(timeline, sample, resolution, 4000);
    }
    timeline.events.push_back({50.0 * i, "a new plan"});
  }
  timeline.seconds = 10'000;
  const std::string svg = memory_drawing(timeline);
  EXPECT_EQ(xml_problem(svg), "");
  EXPECT_LT(svg.size(), 300'000u);
  EXPECT_EQ(count(svg, "s: a new plan"), 12);
  EXPECT_EQ(count(svg, "and 188 more"), 1);
  EXPECT_GE(count(svg, ">8<"), 1);  // the scale goes up to the one high sample
}

}  // namespace
}  // namespace steadyflux
