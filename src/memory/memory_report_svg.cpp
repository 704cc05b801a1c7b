// The drawing of memory_report.h. All measures are pixels of the drawing's own coordinates.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>
#include <vector>

#include "base/bytes.h"
#include "memory/memory_report.h"
#include "memory/svg_elements.h"

namespace steadyflux {
namespace {

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;

constexpr double kWidth = 1120;
constexpr double kLeft = 72;           // of the panels
constexpr double kRight = 1120 - 104;  // beside it: what the budget is
constexpr double kPlot = kRight - kLeft;
constexpr double kTop = 118;  // of the first panel; above it title, legend, names of phases
constexpr double kRamHeight = 250;
constexpr double kDeviceHeight = 210;
constexpr double kPanelGap = 44;
constexpr double kLineHeight = 19;
constexpr std::size_t kMaxEvents = 12;  // written out

constexpr const char* kInk = "#1f2933";
constexpr const char* kGrey = "#52606d";
constexpr const char* kAnon = "#3a7cbd";
constexpr const char* kFile = "#a8cbe8";
constexpr const char* kSwap = "#e5484d";
constexpr const char* kAllocated = "#3c9a63";
constexpr const char* kReserved = "#bfe3cb";
constexpr const char* kMeasured = "#c2560c";
constexpr const char* kBudget = "#b42318";
constexpr const char* kEvent = "#7c3aed";

constexpr const char* kDashes = " stroke-dasharray=\"7 4\"";
// Text on top of curves: a light rim keeps it legible.
constexpr const char* kRim =
    " stroke=\"#ffffff\" stroke-width=\"3\" stroke-linejoin=\"round\" paint-order=\"stroke\"";

// One quantity that is stacked on those before it; `value` gives its upper edge in bytes.
struct Layer {
  const char* color;
  std::function<double(const MemorySample&)> value;
};

struct Panel {
  const char* caption;
  double top = 0;
  double height = 0;
  std::int64_t budget = 0;
  std::vector<Layer> layers;  // the highest first: the lower ones are painted over it
  std::int64_t PhaseRecord::*predicted;
  std::int64_t MemoryPeaks::*measured;
  double scale_bytes = 1;  // bytes at the top
  bool budget_is_far = false;

  double y(double bytes) const { return top + height * (1 - bytes / scale_bytes); }
  double bottom() const { return top + height; }
};

class Drawing {
 public:
  explicit Drawing(const MemoryTimeline& timeline);
  std::string draw();

 private:
  double x(double seconds) const { return kLeft + kPlot * std::clamp(seconds / span_, 0.0, 1.0); }
  void choose_scale(Panel& panel) const;
  void draw_legend();
  void draw_bands();
  void draw_panel(const Panel& panel);
  void draw_curves(const Panel& panel);
  void draw_peaks(const Panel& panel);
  void draw_budget(const Panel& panel);
  void draw_time_axis();
  void draw_events();

  const MemoryTimeline& timeline_;
  double span_ = 0;                    // seconds
  std::vector<MemorySample> samples_;  // at most about one per pixel and phase
  std::vector<Panel> panels_;
  bool any_swap_ = false;
  std::string out_;
};

Drawing::Drawing(const MemoryTimeline& timeline) : timeline_(timeline) {
  span_ = std::max(timeline.seconds, 0.01);
  if (!timeline.samples.empty()) span_ = std::max(span_, timeline.samples.back().seconds);
  for (const PhaseRecord& phase : timeline.phases) span_ = std::max(span_, phase.end);
  for (const MemorySample& sample : timeline.samples) {
    any_swap_ = any_swap_ || sample.swap > 0;
    if (!samples_.empty() && samples_.back().phase == sample.phase &&
        x(sample.seconds) - x(samples_.back().seconds) < 1) {
      samples_.back() = merge_samples(samples_.back(), sample);
    } else {
      samples_.push_back(sample);
    }
  }

  Panel ram{.caption = "RAM of this process, GiB",
            .top = kTop,
            .height = kRamHeight,
            .budget = timeline.ram_budget,
            .layers = {{kFile, [](const auto& s) { return static_cast<double>(s.rss); }},
                       {kAnon, [](const auto& s) { return static_cast<double>(s.rss_anon); }}},
            .predicted = &PhaseRecord::predicted_ram,
            .measured = &MemoryPeaks::rss};
  if (any_swap_) {
    ram.layers.insert(ram.layers.begin(),
                      {kSwap, [](const auto& s) { return static_cast<double>(s.rss + s.swap); }});
  }
  panels_.push_back(std::move(ram));
  if (has_device_numbers(timeline)) {
    panels_.push_back(
        {.caption = "Memory on the device, GiB",
         .top = panels_.back().bottom() + kPanelGap,
         .height = kDeviceHeight,
         .budget = timeline.device_budget,
         .layers = {{kReserved,
                     [](const auto& s) { return static_cast<double>(s.device.reserved); }},
                    {kAllocated,
                     [](const auto& s) { return static_cast<double>(s.device.allocated); }}},
         .predicted = &PhaseRecord::predicted_device,
         .measured = &MemoryPeaks::device_allocated});
  }
  for (Panel& panel : panels_) choose_scale(panel);
}

void Drawing::choose_scale(Panel& panel) const {
  double highest = 0;
  for (const MemorySample& sample : samples_) {
    for (const Layer& layer : panel.layers) highest = std::max(highest, layer.value(sample));
  }
  for (const PhaseRecord& phase : timeline_.phases) {
    highest = std::max({highest, static_cast<double>(phase.*panel.predicted),
                        static_cast<double>(phase.peaks.*panel.measured)});
  }
  const auto budget = static_cast<double>(panel.budget);
  panel.budget_is_far = budget > 2 * highest;  // it would press the curves flat
  if (!panel.budget_is_far) highest = std::max(highest, budget);
  panel.scale_bytes = std::max(highest * 1.14, 0.01 * kGiB);  // room for the labels
}

void Drawing::draw_legend() {
  double at = kLeft;
  const auto entry = [&](const std::string& mark, const std::string& text) {
    out_ += fmt::format("<g transform=\"translate({:.1f} 54)\">{}</g>\n", at, mark);
    out_ += text_at(at + 30, 66, "start", kGrey, text);
    at += 30 + text_width(text) + 18;
  };
  const auto area = [&entry](const char* color, const char* text) {
    entry(fmt::format("<rect y=\"2\" width=\"22\" height=\"12\" rx=\"2\" fill=\"{}\"/>", color),
          text);
  };
  area(kAnon, "anonymous");
  area(kFile, "of files");
  if (any_swap_) area(kSwap, "in swap");
  if (panels_.size() > 1) {
    area(kAllocated, "allocated");
    area(kReserved, "reserved");
  }
  const auto line = [&entry](const char* color, const char* more, const char* text) {
    entry(line_at(0, 8, 24, 8, color, 1.8, more), text);
  };
  const auto any = [this](const auto& test) {
    return std::any_of(timeline_.phases.begin(), timeline_.phases.end(), test);
  };
  if (any([](const PhaseRecord& p) { return p.predicted_ram > 0 || p.predicted_device > 0; })) {
    line(kInk, kDashes, "predicted peak");
  }
  line(kMeasured, "", "measured peak");
  if (timeline_.ram_budget > 0 || timeline_.device_budget > 0) line(kBudget, "", "budget");
}

void Drawing::draw_bands() {
  Labels labels(kLeft, kRight);
  const double bottom = panels_.back().bottom();
  bool odd = false;
  for (const PhaseRecord& phase : timeline_.phases) {
    const double begin = x(phase.start);
    const double end = std::max(x(phase.end), begin + 0.5);
    const std::string label = fmt::format("{} {:.3g} s", phase.name, phase.end - phase.start);
    out_ += fmt::format(
        "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"{}\"><title>{}"
        "</title></rect>\n",
        begin, kTop - 32, end - begin, bottom - kTop + 32, odd ? "#e9eef5" : "#f4f6fa",
        xml_text(label));
    odd = !odd;
    if (end - begin > 3) out_ += line_at(begin, kTop - 32, begin, bottom, "#cbd5e1", 1);
    labels.wish({begin, end, kTop - 17, label, phase.name});
  }
  out_ += labels.draw(kInk, " font-weight=\"600\"");
}

void Drawing::draw_curves(const Panel& panel) {
  if (samples_.empty()) return;
  for (const Layer& layer : panel.layers) {
    std::string points;
    for (const MemorySample& sample : samples_) {
      points += fmt::format("{:.1f},{:.1f} ", x(sample.seconds), panel.y(layer.value(sample)));
    }
    out_ += fmt::format("<polygon fill=\"{}\" points=\"{:.1f},{:.1f} {}{:.1f},{:.1f}\"/>\n",
                        layer.color, x(samples_.front().seconds), panel.bottom(), points,
                        x(samples_.back().seconds), panel.bottom());
  }
}

void Drawing::draw_peaks(const Panel& panel) {
  Labels labels(kLeft, kRight);
  for (const PhaseRecord& phase : timeline_.phases) {
    const std::int64_t predicted = phase.*panel.predicted;
    const std::int64_t measured = phase.peaks.*panel.measured;
    const double begin = x(phase.start);
    const double end = std::max(x(phase.end), begin + 4);
    double above = panel.bottom();
    double below = panel.top;
    const auto level = [&](std::int64_t bytes, const char* color, const char* more) {
      if (bytes <= 0) return;
      const double y = panel.y(static_cast<double>(bytes));
      out_ += line_at(begin, y, end, y, color, 1.8, more);
      above = std::min(above, y);
      below = std::max(below, y);
    };
    level(measured, kMeasured, "");
    level(predicted, kInk, kDashes);
    const double budget_below =
        panel.budget > 0 ? above - panel.y(static_cast<double>(panel.budget)) : 0;
    const bool crossed = budget_below > 0 && budget_below < 20;
    const double label_y = crossed ? below + 15 : above - 6;
    if (measured > 0) labels.wish({begin, end, label_y, format_bytes(measured)});
  }
  out_ += labels.draw(kMeasured, kRim);
}

void Drawing::draw_budget(const Panel& panel) {
  if (panel.budget <= 0) return;
  const double y = panel.budget_is_far ? panel.top : panel.y(static_cast<double>(panel.budget));
  if (!panel.budget_is_far) out_ += line_at(kLeft, y, kRight, y, kBudget, 1.2);
  out_ += text_at(kRight + 8, y + (panel.budget_is_far ? 10 : -2), "start", kBudget,
                  panel.budget_is_far ? "budget, above" : "budget");
  out_ += text_at(kRight + 8, y + (panel.budget_is_far ? 25 : 13), "start", kBudget,
                  format_bytes(panel.budget));
}

void Drawing::draw_panel(const Panel& panel) {
  const double highest = panel.scale_bytes / kGiB;
  const double step = nice_step(highest, 5);
  for (int i = 0; i * step <= highest; ++i) {
    const double y = panel.y(i * step * kGiB);
    out_ += line_at(kLeft, y, kRight, y, i == 0 ? "#9fb3c8" : "#dde4ec", 1);
    out_ += text_at(kLeft - 8, y + 4, "end", kGrey, tick_text(i * step, step));
  }
  draw_curves(panel);
  draw_budget(panel);
  draw_peaks(panel);
  out_ += line_at(kLeft, panel.top, kLeft, panel.bottom(), "#9fb3c8", 1);
  out_ += fmt::format(
      "<text transform=\"translate(20 {:.1f}) rotate(-90)\" text-anchor=\"middle\" fill=\"{}\">{}"
      "</text>\n",
      panel.top + panel.height / 2, kInk, panel.caption);
}

void Drawing::draw_time_axis() {
  const double step = nice_step(span_, 10);
  for (std::size_t i = 0; i < panels_.size(); ++i) {
    const double y = panels_[i].bottom();
    for (int tick = 0; tick * step <= span_ * 1.0001; ++tick) {
      const double at = x(tick * step);
      out_ += line_at(at, y, at, y + 5, "#9fb3c8", 1);
      out_ += text_at(at, y + 18, "middle", kGrey, tick_text(tick * step, step));
    }
  }
  out_ += text_at(kRight + 26, panels_.back().bottom() + 18, "start", kGrey, "seconds");
}

void Drawing::draw_events() {
  double y = panels_.back().bottom() + 46;
  std::size_t number = 0;
  for (const MemoryEvent& event : timeline_.events) {
    const double at = x(event.seconds);
    ++number;
    out_ +=
        line_at(at, kTop, at, panels_.back().bottom(), kEvent, 1.2, " stroke-dasharray=\"2 3\"");
    if (number > kMaxEvents) continue;
    out_ += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"8\" fill=\"{}\"/>\n", at, kTop,
                        kEvent);
    out_ += text_at(at, kTop + 4, "middle", "#ffffff", std::to_string(number),
                    " font-size=\"10.5\" font-weight=\"600\"");
    out_ += text_at(kLeft, y, "start", kEvent, std::to_string(number), " font-weight=\"600\"");
    out_ += text_at(kLeft + 22, y, "start", kInk,
                    fmt::format("{} s: {}", tick_text(event.seconds, span_ / 1000),
                                shortened(event.text, 150)));
    y += kLineHeight;
  }
  if (number > kMaxEvents) {
    out_ += text_at(kLeft + 22, y, "start", kGrey, fmt::format("and {} more", number - kMaxEvents));
  }
}

std::string Drawing::draw() {
  const std::size_t lines = std::min(timeline_.events.size(), kMaxEvents + 1);
  const double height = panels_.back().bottom() + 36 +
                        (lines > 0 ? 14 + kLineHeight * static_cast<double>(lines) : 0);
  const std::string title = timeline_.title.empty() ? "Memory" : timeline_.title;
  out_ = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" "
      "height=\"{1:.0f}\" font-family=\"system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu "
      "Sans', sans-serif\" font-size=\"12\" role=\"img\">\n<title>{2}</title>\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n",
      kWidth, height, xml_text(title));
  out_ += text_at(kLeft, 34, "start", kInk, shortened(title, 100),
                  " font-size=\"18\" font-weight=\"600\"");
  draw_legend();
  draw_bands();
  for (const Panel& panel : panels_) draw_panel(panel);
  draw_time_axis();
  draw_events();
  return out_ + "</svg>\n";
}

}  // namespace

std::string memory_drawing(const MemoryTimeline& timeline) { return Drawing(timeline).draw(); }

}  // namespace steadyflux
