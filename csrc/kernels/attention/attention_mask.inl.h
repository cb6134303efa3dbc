// f(the type of what a mask is made of), where there is one.
template <typename F>
inline void with_mask_type(AttentionMask kind, F f) {
  switch (kind) {
    case AttentionMask::none:
      return;
    case AttentionMask::bytes:
      return f(MaskBytes{});
    case AttentionMask::f32:
      return f(F32{});
    case AttentionMask::bf16:
      return f(Bf16{});
    case AttentionMask::f16:
      return f(F16{});
  }
}
