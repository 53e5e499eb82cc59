#pragma once

namespace acme {
struct Body {
  double mass;
};
}  // namespace acme
