// Where a computation spends its time: seconds by operator, of libtorch's and of those that this
// program names itself (RECORD_FUNCTION), each with all that it calls.
#pragma once

#include <ATen/record_function.h>

#include <chrono>
#include <map>
#include <memory>
#include <string>

namespace steadyflux {

class OperatorTimes {
 public:
  OperatorTimes() {
    times().clear();
    depth() = 0;
    handle_ = at::addThreadLocalCallback(
        at::RecordFunctionCallback(&begin, &end).scopes({at::RecordScope::FUNCTION}));
  }
  ~OperatorTimes() { at::removeCallback(handle_); }
  OperatorTimes(const OperatorTimes&) = delete;
  OperatorTimes& operator=(const OperatorTimes&) = delete;

  const std::map<std::string, double>& seconds() const { return times(); }

 private:
  using Clock = std::chrono::steady_clock;

  struct Outermost : at::ObserverContext {
    Clock::time_point start = Clock::now();
  };

  static std::map<std::string, double>& times() {
    static std::map<std::string, double> all;
    return all;
  }
  static int& depth() {
    static int calls = 0;
    return calls;
  }

  static std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction&) {
    return depth()++ == 0 ? std::make_unique<Outermost>() : nullptr;
  }
  static void end(const at::RecordFunction& function, at::ObserverContext* context) {
    --depth();
    if (context == nullptr) return;
    times()[function.name()] +=
        std::chrono::duration<double>(Clock::now() - static_cast<Outermost*>(context)->start)
            .count();
  }

  at::CallbackHandle handle_ = 0;
};

}  // namespace steadyflux
