// Waiting for other machines: short sleeps at first, longer ones later.
#pragma once

#include <algorithm>
#include <chrono>
#include <thread>

namespace steadyflux {

class Poll {
 public:
  void sleep() {
    std::this_thread::sleep_for(time_);
    time_ = std::min(time_ * 2, std::chrono::milliseconds(250));
  }

 private:
  std::chrono::milliseconds time_{10};
};

}  // namespace steadyflux
