#include "memory/svg_elements.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/utf8.h"

namespace steadyflux {

std::string xml_text(const std::string& text) {
  std::string escaped;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const auto byte = static_cast<unsigned char>(c);
    if (c == '&') {
      escaped += "&amp;";
    } else if (c == '<') {
      escaped += "&lt;";
    } else if (c == '>') {
      escaped += "&gt;";
    } else if (c == '"') {
      escaped += "&quot;";
    } else if (byte < 0x20 || byte == 0x7f) {
      escaped += ' ';  // most are not allowed in XML, not even escaped
    } else {
      escaped += c;
    }
  }
  return is_valid_utf8(escaped) ? escaped : printable(escaped, escaped.size() * 4);
}

double nice_step(double span, double count) {
  const double raw = span / count;
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= raw * 0.999) return factor * power;
  }
  return 10 * power;
}

std::string tick_text(double value, double step) {
  if (value == 0) return "0";
  const int digits = std::max(0, -static_cast<int>(std::floor(std::log10(step) + 1e-9)));
  return fmt::format("{:.{}f}", value, digits);
}

double text_width(const std::string& text) {
  constexpr double kLetterWidth = 7;
  return kLetterWidth * static_cast<double>(text.size());
}

std::string shortened(const std::string& text, std::size_t most) {
  if (text.size() <= most) return text;
  std::size_t end = most;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return text.substr(0, end) + "...";
}

std::string text_at(double x, double y, const char* anchor, const char* color,
                    const std::string& text, const char* more) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" fill=\"{}\"{}>{}</text>\n",
                     x, y, anchor, color, more, xml_text(text));
}

std::string line_at(double x1, double y1, double x2, double y2, const char* color, double width,
                    const char* more) {
  return fmt::format(
      "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\" "
      "stroke-width=\"{}\"{}/>\n",
      x1, y1, x2, y2, color, width, more);
}

std::string Labels::draw(const char* color, const char* more) {
  std::stable_sort(wishes_.begin(), wishes_.end(),
                   [](const Wish& a, const Wish& b) { return a.end - a.begin > b.end - b.begin; });
  std::string out;
  for (const Wish& wish : wishes_) {
    const bool wide = wish.shorter.empty() || text_width(wish.text) <= wish.end - wish.begin;
    const std::string& text = wide ? wish.text : wish.shorter;
    if (const auto left = place(wish, text_width(text))) {
      out += text_at(*left, wish.y, "start", color, text, more);
    }
  }
  return out;
}

std::optional<double> Labels::place(const Wish& wish, double width) {
  constexpr double kGap = 6;
  constexpr double kHeight = 14;
  if (wish.end - wish.begin < width / 2.5) return std::nullopt;  // nobody would know whose it is
  if (width > right_ - left_) return std::nullopt;
  const double left = std::clamp((wish.begin + wish.end - width) / 2, left_, right_ - width);
  const Box box{left, left + width, wish.y};
  for (const Box& other : taken_) {
    if (box.left < other.right + kGap && other.left < box.right + kGap &&
        std::abs(box.y - other.y) < kHeight) {
      return std::nullopt;
    }
  }
  taken_.push_back(box);
  return left;
}

}  // namespace steadyflux
