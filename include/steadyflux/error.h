// The one exception type of steadyflux. Its kind decides the exit code of the program; only
// src/main.cpp catches it for good. A message is one line: what happened, where, what to do.
#pragma once

#include <stdexcept>
#include <string>

namespace steadyflux {

enum class ErrorKind {
  kInternal,     // exit 1: a bug in steadyflux
  kUsage,        // exit 2: the command line asks for something that cannot be
  kBadInput,     // exit 3: a model or input file is missing, damaged or unsuitable
  kDoesNotFit,   // exit 4: out of memory, or known beforehand not to fit
  kIo,           // exit 5: reading or writing failed (no permission, disk full)
  kPartial,      // exit 6: a batch ended, some of its items failed
  kInterrupted,  // exit 128 + signal: see Interrupted
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }
  // The process exit code that belongs to this error.
  virtual int exit_code() const;

 private:
  ErrorKind kind_;
};

// Thrown between steps after SIGINT or SIGTERM was seen.
class Interrupted : public Error {
 public:
  explicit Interrupted(int signal)
      : Error(ErrorKind::kInterrupted, "interrupted"), signal_(signal) {}
  int exit_code() const override { return 128 + signal_; }

 private:
  int signal_;
};

}  // namespace steadyflux
