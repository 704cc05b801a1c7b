// Child processes of a test: they run a function and nothing else of the test program.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <exception>
#include <functional>
#include <iostream>

// The child's exit status is 0 unless an EXPECT fails in it or it throws.
inline pid_t fork_child(const std::function<void()>& action) {
  std::cout.flush();
  const pid_t child = fork();
  if (child != 0) return child;
  int status = 1;
  try {
    action();
    status = testing::Test::HasFailure() ? 1 : 0;
  } catch (const std::exception& error) {
    std::cerr << "child: " << error.what() << std::endl;
  }
  std::cout.flush();
  _exit(status);
}

inline void expect_success(pid_t child) {
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "wait status " << status;
}

inline void kill_child(pid_t child) {
  kill(child, SIGKILL);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status)) << "ended by itself, wait status " << status;
}
