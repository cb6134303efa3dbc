#include "ops/panels/panel.h"

#include <cstring>

namespace prunus {

const PanelKind& panel_kind(Panel panel) {
  switch (panel) {
    case Panel::strip:
      return kStripPanel;
    case Panel::rows:
      return kRowsPanel;
    case Panel::few:
      return kFewPanelKind;
    case Panel::lanes:
      return kLanesPanel;
    case Panel::lane_rows:
      return kLaneRowsPanel;
    case Panel::none:
      break;
  }
  __builtin_unreachable();  // no tile kernel has another
}

void pack_strip_with_zeros(const Work& work, const void* x, int tokens, int cols, int width, float* to) {
  work.io.pack_strip(x, work.args.x_stride, tokens, cols, width, to);
  const auto zeros = static_cast<int>(zero_columns(work.w.header));
  const int first = cols + 1, behind = round_up(cols, zeros) + zeros;
  if (behind > first)
    std::memset(to + first * width, 0, static_cast<std::size_t>((behind - first) * width) * sizeof(float));
}

}  // namespace prunus
