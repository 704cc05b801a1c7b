// Pieces of a drawing in SVG, as text: lines, words, labels that keep out of each other's way. All
// measures are in pixels. How wide a word is only the viewer knows; it is taken to be as wide as
// its letters usually are.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace steadyflux {

// Text for XML and HTML: markup escaped, control characters and broken UTF-8 replaced.
std::string xml_text(const std::string& text);

// At most `most` bytes and "...", cut between two letters.
std::string shortened(const std::string& text, std::size_t most);

// 1, 2 or 5 times a power of ten, so that `span` has about `count` steps.
double nice_step(double span, double count);
std::string tick_text(double value, double step);

double text_width(const std::string& text);  // at 12 px

// `anchor` is start, middle or end; `more` further attributes, with a blank before them.
std::string text_at(double x, double y, const char* anchor, const char* color,
                    const std::string& text, const char* more = "");
std::string line_at(double x1, double y1, double x2, double y2, const char* color, double width,
                    const char* more = "");

// Labels that stand over the middle of what they belong to, between `left` and `right`. Those of
// the widest things come first; one that would touch another is left out.
class Labels {
 public:
  struct Wish {
    double begin = 0;  // of what it belongs to
    double end = 0;
    double y = 0;  // of the text's lower edge
    std::string text;
    std::string shorter = {};  // where the text is wider than what it belongs to
  };

  Labels(double left, double right) : left_(left), right_(right) {}
  void wish(Wish wish) { wishes_.push_back(std::move(wish)); }
  std::string draw(const char* color, const char* more);

 private:
  struct Box {
    double left, right, y;
  };
  std::optional<double> place(const Wish& wish, double width);

  double left_;
  double right_;
  std::vector<Wish> wishes_;
  std::vector<Box> taken_;
};

}  // namespace steadyflux
