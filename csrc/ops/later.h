// The store of a tile while the next one is multiplied: tile products leave the vector units idle, and what
// is stored needs little else (decision 0050).
#pragma once
#include <algorithm>

#include "ops/panels/panel.h"

namespace prunus {

class Later : public Meanwhile {
 public:
  Later() : Meanwhile{[](Meanwhile& self) { static_cast<Later&>(self).next(); }} {}

  // sums: to be left alone until all is stored.
  void begin(const Work& work, const PanelKind& kind, std::int64_t t, std::int64_t s, const float* sums,
             const std::uint8_t* panel) {
    work_ = &work, kind_ = &kind, tile_ = t, strip_ = s, sums_ = sums;
    kind.keep(work, s, panel, kept_);
    rows_ = work.geo.rows_of(t), tokens_ = work.tokens_of(s);
    across_ = (rows_ + kRows - 1) / kRows;
    done_ = 0, all_ = across_ * ((tokens_ + kTokens - 1) / kTokens);
  }
  // It will be asked so often: everything should be stored by then.
  void expect(std::int64_t times) {
    due_ = 0;
    step_ = times > 0 ? ((all_ - done_) * kOne + times - 1) / times : 0;
  }
  void finish() {
    while (done_ < all_) store();
  }

 private:
  // A part fills whole lines of y, as long as the transposition of the sums is wide.
  static constexpr int kRows = 32, kTokens = 16;
  static constexpr std::int64_t kOne = 256;

  void next() {
    for (due_ += step_; due_ >= kOne && done_ < all_; due_ -= kOne) store();
  }
  void store() {
    const int row = done_ % across_ * kRows, token = done_ / across_ * kTokens;
    ++done_;
    kind_->store_part(*work_, tile_, strip_,
                      {row, std::min(kRows, rows_ - row), token, std::min(kTokens, tokens_ - token)}, sums_,
                      kept_);
  }

  const Work* work_ = nullptr;
  const PanelKind* kind_ = nullptr;
  std::int64_t tile_ = 0, strip_ = 0, due_ = 0, step_ = 0;
  const float* sums_ = nullptr;
  int rows_ = 0, tokens_ = 0, across_ = 0, done_ = 0, all_ = 0;
  alignas(64) std::uint8_t kept_[kKeptMeaning];
};

}  // namespace prunus
