// Tiles of AMX: eight registers of 16 rows x 64 bytes. Written as assembly, because a tile's number must be
// known to the assembler and the intrinsics want it from the preprocessor. Sealed like the others.

// Before and after a kernel: a thread that leaves with tiles in use makes the system save them.
inline void start_tiles() {
  struct alignas(64) Config {
    std::uint8_t palette, start_row, reserved[14];
    std::uint16_t bytes[16];
    std::uint8_t rows[16];
  };
  static constexpr Config config{
      1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
  static_assert(sizeof(Config) == 64, "as the instruction reads it");
  asm volatile("ldtilecfg %0" ::"m"(config));
}
inline void end_tiles() { asm volatile("tilerelease"); }

// The registers are the thread's: all objects are the same.
struct Tiles {
  template <int T>
  static void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(T));
  }
  template <int T>
  static void load(const void* p, std::int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(T) : "memory");
  }
  template <int T>
  static void store(void* p, std::int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(stride), "i"(T) : "memory");
  }
  // C += A . B: rows of weights in A, lanes of tokens in B.
  template <int C, int A, int B>
  static void dot(I8) {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
  }
  template <int C, int A, int B>
  static void dot(Bf16) {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
  }
};
