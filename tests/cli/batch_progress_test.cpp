// Progress of batches with a clock that is set by hand: every number of seconds is known.
#include "cli/batch_progress.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace steadyflux::cli {
namespace {

TEST(ProgressBar, Durations) {
  EXPECT_EQ(duration_text(0), "0:00");
  EXPECT_EQ(duration_text(59.4), "0:59");
  EXPECT_EQ(duration_text(59.6), "1:00");
  EXPECT_EQ(duration_text(3599), "59:59");
  EXPECT_EQ(duration_text(3723), "1:02:03");
  EXPECT_EQ(duration_text(360000), "100:00:00");
}

TEST(ProgressBar, Bars) {
  EXPECT_EQ(bar_text(0, 4, 8), "[........]");
  EXPECT_EQ(bar_text(1, 4, 8), "[##......]");
  EXPECT_EQ(bar_text(4, 4, 8), "[########]");
  EXPECT_EQ(bar_text(9, 4, 8), "[########]");  // a phase that took more steps than it said
  EXPECT_EQ(bar_text(0, 0, 8), "[........]");
}

TEST(PhaseClock, TheFirstStepDoesNotCount) {
  double now = 50;
  PhaseClock clock([&now] { return now; });
  clock.start("denoise", 10);
  EXPECT_FALSE(clock.remaining());
  now += 30;  // opens the weights
  clock.step(1);
  EXPECT_FALSE(clock.remaining());
  now += 2;
  clock.step(2);
  EXPECT_EQ(clock.remaining(), 16);
  now += 4;
  clock.step(4);
  EXPECT_EQ(clock.remaining(), 12);
  EXPECT_EQ(clock.seconds(), 36);
  // Begun again by a leaner plan: what the first try measured does not count.
  now += 100;
  clock.step(1);
  EXPECT_FALSE(clock.remaining());
  now += 3;
  clock.step(2);
  EXPECT_EQ(clock.remaining(), 24);
  clock.step(10);
  EXPECT_EQ(clock.remaining(), 0);
}

TEST(PhaseClock, ASingleStepIsThroughWhenItIsDone) {
  double now = 0;
  PhaseClock clock([&now] { return now; });
  clock.start("modulate", 1);
  EXPECT_FALSE(clock.remaining());
  clock.step(1);
  EXPECT_EQ(clock.remaining(), 0);
}

class BatchProgressTest : public testing::Test {
 protected:
  // `steps` steps of `seconds` each.
  void run_phase(BatchProgress& progress, const std::string& name, int steps, double seconds) {
    progress.phase_started(name, steps);
    for (int step = 1; step <= steps; ++step) {
      now_ += seconds;
      progress.phase_progress(step);
    }
    progress.phase_finished({.name = name, .seconds = steps * seconds});
  }

  // Per picture 0.25 s to encode, 4 s to denoise, 1 s to decode; and `more` in all besides phases.
  void run_chunk(BatchProgress& progress, int pictures, double more) {
    progress.chunk_started(pictures);
    run_phase(progress, "encode", 2, 0.125 * pictures);
    run_phase(progress, "denoise", 4 * pictures, 1);
    run_phase(progress, "decode", pictures, 1);
    for (int i = 0; i < pictures; ++i) progress.picture_finished("x.png", 5);
    now_ += more;
    progress.chunk_finished();
  }

  BatchProgress make(std::optional<std::int64_t> total) {
    return {console_, {}, total, [this] { return now_; }};
  }

  double now_ = 1000;
  Console console_{Verbosity::kQuiet};
};

TEST_F(BatchProgressTest, TheFirstChunkIsJudgedByItsDenoising) {
  BatchProgress progress = make(100);
  progress.pictures_skipped(20);
  EXPECT_FALSE(progress.remaining());
  progress.chunk_started(40);
  EXPECT_FALSE(progress.remaining());
  run_phase(progress, "encode", 2, 5);
  EXPECT_FALSE(progress.remaining());
  progress.phase_started("denoise", 160);
  now_ += 1;
  progress.phase_progress(1);
  EXPECT_FALSE(progress.remaining());
  now_ += 1;
  progress.phase_progress(2);
  // 160 s in all, of which 2 are over; decoding is taken to be 15 of 85 parts.
  const double chunk_left = 158 + 160.0 * 15 / 85;
  // 12 s are over for these 40 pictures, and 40 more are to come.
  ASSERT_TRUE(progress.remaining());
  EXPECT_DOUBLE_EQ(*progress.remaining(), chunk_left + (12 + chunk_left));
}

TEST_F(BatchProgressTest, LaterChunksAreJudgedByEarlierOnes) {
  BatchProgress progress = make(100);
  progress.pictures_skipped(20);
  run_chunk(progress, 40, 10);
  const double per_picture = (0.25 + 4 + 1) + 10.0 / 40;
  EXPECT_EQ(progress.pictures_handled(), 60);
  EXPECT_DOUBLE_EQ(*progress.remaining(), 40 * per_picture);

  progress.chunk_started(20);
  EXPECT_DOUBLE_EQ(*progress.remaining(), 40 * per_picture);
  const double behind = 20 * per_picture;
  progress.phase_started("encode", 2);
  now_ += 1;
  EXPECT_DOUBLE_EQ(*progress.remaining(), 4 + 80 + 20 + behind);
  now_ += 8;  // longer than it should
  EXPECT_DOUBLE_EQ(*progress.remaining(), 0 + 80 + 20 + behind);
  progress.phase_finished({.name = "encode", .seconds = 9});
  EXPECT_DOUBLE_EQ(*progress.remaining(), 80 + 20 + behind);
  progress.phase_started("denoise", 80);
  for (int step = 1; step <= 3; ++step) {  // slower than before
    now_ += 2;
    progress.phase_progress(step);
  }
  EXPECT_DOUBLE_EQ(*progress.remaining(), 77 * 2 + 20 + behind);
  progress.phase_finished({.name = "denoise", .seconds = 160});
  progress.phase_started("decode", 20);
  for (int picture = 1; picture <= 5; ++picture) {
    now_ += 1;
    progress.phase_progress(picture);
    progress.picture_finished("x.png", 5);
    // Others finish as well meanwhile, elsewhere: only what is behind this chunk becomes less.
    progress.pictures_skipped(1);
  }
  EXPECT_DOUBLE_EQ(*progress.remaining(), 15 + 15 * per_picture);
}

TEST_F(BatchProgressTest, NothingIsLeftAtTheEnd) {
  BatchProgress progress = make(8);
  run_chunk(progress, 4, 1);
  run_chunk(progress, 4, 1);
  EXPECT_EQ(progress.remaining(), 0);
}

TEST_F(BatchProgressTest, OnePictureAfterTheOther) {
  BatchProgress progress = make(10);
  for (int i = 0; i < 4; ++i) run_chunk(progress, 1, 0.75);
  EXPECT_DOUBLE_EQ(*progress.remaining(), 6 * 6.0);
}

TEST_F(BatchProgressTest, AChunkThatWasGivenUpSaysNothing) {
  BatchProgress progress = make(10);
  run_chunk(progress, 4, 0.75 * 4);
  progress.chunk_started(4);
  progress.phase_started("encode", 2);
  now_ += 1000;
  progress.chunk_started(2);
  EXPECT_DOUBLE_EQ(*progress.remaining(), 6 * 6.0);
}

TEST_F(BatchProgressTest, AStreamHasNoEnd) {
  BatchProgress progress = make(std::nullopt);
  run_chunk(progress, 4, 0);
  EXPECT_FALSE(progress.remaining());
  EXPECT_EQ(progress.status_text(80), "picture 4");
}

TEST_F(BatchProgressTest, PhasesOfAllChunksTogether) {
  BatchProgress progress = make(10);
  for (const std::int64_t peak : {300, 700, 500}) {
    PhaseStats stats{.name = "denoise", .seconds = 2, .load_seconds = 0.5};
    stats.peak_rss = peak;
    stats.major_faults = 3;
    stats.disk_read = peak;
    progress.phase_finished({.name = "encode", .seconds = 1});
    progress.phase_finished(stats);
  }
  ASSERT_EQ(progress.phases().size(), 2U);
  const PhaseStats& denoise = progress.phases()[1];
  EXPECT_EQ(progress.phases()[0].seconds, 3);
  EXPECT_EQ(denoise.seconds, 6);
  EXPECT_EQ(denoise.load_seconds, 1.5);
  EXPECT_EQ(denoise.peak_rss, 700);
  EXPECT_EQ(denoise.major_faults, 9);
  EXPECT_EQ(denoise.disk_read, 1500);
}

TEST_F(BatchProgressTest, StatusLines) {
  BatchProgress progress = make(1000);
  progress.pictures_skipped(8);
  run_chunk(progress, 4, 3);  // 6 s a picture
  EXPECT_EQ(progress.status_text(80), "picture 12/1000, ETA 1:38:48");
  progress.chunk_started(4);
  progress.phase_started("encode", 2);
  now_ += 1;
  progress.phase_progress(1);
  // The chunk: 0 of encode, 16 of denoise, 4 of decode; 984 pictures behind it.
  EXPECT_EQ(progress.status_text(100),
            "encode   [###############...............] 1/2  picture 12/1000, ETA 1:38:44");
  for (const std::size_t columns : {60, 80, 100, 300}) {
    EXPECT_LT(progress.status_text(columns).size(), columns) << columns;
  }
  EXPECT_EQ(progress.status_text(20).substr(0, 20), "encode   [##...] 1/2");
}

TEST_F(BatchProgressTest, ALineForEveryPictureWhereThereIsNoTerminal) {
  const auto output = [this](Verbosity verbosity) {
    testing::internal::CaptureStderr();
    Console console(verbosity);
    BatchProgress progress(console, {}, 12, [this] { return now_; });
    progress.pictures_skipped(10);
    progress.chunk_started(2);
    progress.phase_started("decode", 2);
    progress.phase_progress(1);
    progress.picture_finished("0011.png", 3.24);
    progress.picture_failed("0012.png", "disk full");
    progress.chunk_finished();
    return testing::internal::GetCapturedStderr();
  };
  EXPECT_EQ(output(Verbosity::kNormal),
            "[11/12] 0011.png 3.2 s\n[12/12] 0012.png failed: disk full\n");
  EXPECT_EQ(output(Verbosity::kQuiet), "");
}

// Standard error is a terminal of 100 columns while this lives.
class Terminal {
 public:
  Terminal() {
    main_ = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (main_ < 0 || grantpt(main_) != 0 || unlockpt(main_) != 0) return;
    const int side = ::open(ptsname(main_), O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (side < 0) return;
    winsize size{};
    size.ws_col = 100;
    size.ws_row = 25;
    ioctl(side, TIOCSWINSZ, &size);
    before_ = ::dup(STDERR_FILENO);
    ::dup2(side, STDERR_FILENO);
    ::close(side);
  }
  ~Terminal() {
    restore();
    if (main_ >= 0) ::close(main_);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  bool is_there() const { return before_ >= 0; }

  // All that was shown.
  std::string take() {
    std::fflush(stderr);
    ::fcntl(main_, F_SETFL, O_NONBLOCK);
    std::string text;
    char buffer[4096];
    for (ssize_t size; (size = ::read(main_, buffer, sizeof buffer)) > 0;) {
      text.append(buffer, static_cast<std::size_t>(size));
    }
    restore();
    return text;
  }

 private:
  void restore() {
    if (before_ < 0) return;
    ::dup2(before_, STDERR_FILENO);
    ::close(before_);
    before_ = -1;
  }
  int main_ = -1;
  int before_ = -1;
};

TEST_F(BatchProgressTest, OneLineOnATerminal) {
  Terminal terminal;
  if (!terminal.is_there()) GTEST_SKIP() << "no pseudo-terminals here";
  Console console(Verbosity::kNormal);
  BatchProgress progress(console, {}, 3, [this] { return now_; });
  progress.chunk_started(3);
  progress.phase_started("decode", 3);
  for (int picture = 1; picture <= 3; ++picture) {
    now_ += 2;
    progress.phase_progress(picture);
    progress.picture_finished("x.png", 2);
  }
  progress.phase_finished({.name = "decode", .seconds = 6});
  progress.chunk_finished();
  const std::string text = terminal.take();
  EXPECT_EQ(text.find('\n'), std::string::npos) << text;
  const std::string clear = "\r\x1b[K";
  const std::string bar(20, '#');
  EXPECT_NE(text.find(clear + "decode   [" + bar + "..........] 2/3  picture 2/3, ETA 0:02"),
            std::string::npos)
      << text;
  EXPECT_EQ(text.substr(text.size() - clear.size()), clear) << "it takes its line away";
}

TEST_F(BatchProgressTest, ATerminalIsNotFlooded) {
  Terminal terminal;
  if (!terminal.is_there()) GTEST_SKIP() << "no pseudo-terminals here";
  Console console(Verbosity::kNormal);
  BatchProgress progress(console, {}, 3, [this] { return now_; });
  progress.chunk_started(3);
  progress.phase_started("denoise", 1024);
  for (int step = 1; step <= 512; ++step) {
    now_ += 1.0 / 1024;  // exact in binary; half a second in all
    progress.phase_progress(step);
  }
  const std::string text = terminal.take();
  const auto lines = std::count(text.begin(), text.end(), '\r');
  EXPECT_LE(lines, 11);  // 20 a second
  EXPECT_GE(lines, 9);
}

}  // namespace
}  // namespace steadyflux::cli
