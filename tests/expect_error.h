// One line for "this throws an Error of that kind whose message says this".
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "steadyflux/error.h"

inline void expect_error(steadyflux::ErrorKind kind, const std::string& part,
                         const std::function<void()>& action) {
  try {
    action();
    ADD_FAILURE() << "no error; expected one that says: " << part;
  } catch (const steadyflux::Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
  }
}
