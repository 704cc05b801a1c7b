// A benchmark that takes turns with another program, so that both meet the same machine: it makes a
// run for each line of its standard input and answers each with the seconds taken. The peer of
// turns.py; compare.py holds both ends.
#pragma once

#include <chrono>
#include <iostream>
#include <string>
#include <vector>

namespace steadyflux {

template <typename F>
double seconds(F f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Seconds of `repeats` runs, or of one for each line of standard input where that is 0. `run` has
// run before, to warm up.
template <typename F>
std::vector<double> timed_runs(int repeats, F run) {
  std::vector<double> times;
  if (repeats > 0) {
    for (int i = 0; i < repeats; ++i) times.push_back(seconds(run));
    return times;
  }
  std::cout << "ready" << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    times.push_back(seconds(run));
    std::cout << times.back() << std::endl;
  }
  return times;
}

}  // namespace steadyflux
