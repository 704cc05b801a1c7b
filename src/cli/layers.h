// Where the value of an option comes from.
#pragma once

#include <optional>
#include <string>

#include "cli/options.h"

namespace steadyflux::cli {

// What was typed, else what was recorded, else what was configured: in this order.
class Layers {
 public:
  Layers(const CommandLine& line, bool has_record) : line_(line), has_record_(has_record) {}

  // The text given for an option, unless the record has a say in between.
  std::optional<std::string> picture(std::optional<std::string> Options::*option) const {
    if (line_.typed.*option || has_record_) return line_.typed.*option;
    return line_.configured.*option;
  }
  bool picture(bool Options::*flag) const {
    return line_.typed.*flag || (!has_record_ && line_.configured.*flag);
  }
  Command command() const { return line_.command; }
  const std::optional<std::string>& typed(std::optional<std::string> Options::*option) const {
    return line_.typed.*option;
  }
  // For options that a record says nothing about.
  std::optional<std::string> other(std::optional<std::string> Options::*option) const {
    return line_.typed.*option ? line_.typed.*option : line_.configured.*option;
  }

 private:
  const CommandLine& line_;
  bool has_record_;
};

}  // namespace steadyflux::cli
