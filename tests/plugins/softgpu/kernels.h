// PTX for the tests.
#pragma once

namespace softgpu_test {

// add(data, count, amount): data[i] += amount; fill(data, count): data[i] = i; spin(flag): until *flag is not 0;
// wild(): writes to address 8; count(out): *out = ++counter, a variable of the module that is 7 at first.
inline constexpr char kKernels[] = R"ptx(
.version 7.5
.target sm_80
.address_size 64

.visible .global .align 8 .u64 counter = 7;

.visible .entry add(.param .u64 add_0, .param .u32 add_1, .param .u32 add_2)
{
  .reg .pred %p<2>;
  .reg .b32 %r<9>;
  .reg .b64 %rd<5>;
  ld.param.u64 %rd1, [add_0];
  ld.param.u32 %r1, [add_1];
  ld.param.u32 %r2, [add_2];
  mov.u32 %r3, %ctaid.x;
  mov.u32 %r4, %ntid.x;
  mov.u32 %r5, %tid.x;
  mad.lo.s32 %r6, %r3, %r4, %r5;
  setp.ge.u32 %p1, %r6, %r1;
  @%p1 bra DONE;
  cvta.to.global.u64 %rd2, %rd1;
  mul.wide.u32 %rd3, %r6, 4;
  add.s64 %rd4, %rd2, %rd3;
  ld.global.u32 %r7, [%rd4];
  add.s32 %r8, %r7, %r2;
  st.global.u32 [%rd4], %r8;
DONE:
  ret;
}

.visible .entry fill(.param .u64 fill_0, .param .u32 fill_1)
{
  .reg .pred %p<2>;
  .reg .b32 %r<7>;
  .reg .b64 %rd<5>;
  ld.param.u64 %rd1, [fill_0];
  ld.param.u32 %r1, [fill_1];
  mov.u32 %r3, %ctaid.x;
  mov.u32 %r4, %ntid.x;
  mov.u32 %r5, %tid.x;
  mad.lo.s32 %r6, %r3, %r4, %r5;
  setp.ge.u32 %p1, %r6, %r1;
  @%p1 bra DONE;
  cvta.to.global.u64 %rd2, %rd1;
  mul.wide.u32 %rd3, %r6, 4;
  add.s64 %rd4, %rd2, %rd3;
  st.global.u32 [%rd4], %r6;
DONE:
  ret;
}

.visible .entry spin(.param .u64 spin_0)
{
  .reg .pred %p<2>;
  .reg .b32 %r<2>;
  .reg .b64 %rd<3>;
  ld.param.u64 %rd1, [spin_0];
  cvta.to.global.u64 %rd2, %rd1;
AGAIN:
  ld.volatile.global.u32 %r1, [%rd2];
  setp.eq.u32 %p1, %r1, 0;
  @%p1 bra AGAIN;
  ret;
}

.visible .entry wild()
{
  .reg .b32 %r<2>;
  .reg .b64 %rd<2>;
  mov.u64 %rd1, 8;
  mov.u32 %r1, 1;
  st.global.u32 [%rd1], %r1;
  ret;
}

.visible .entry count(.param .u64 count_0)
{
  .reg .b64 %rd<5>;
  ld.param.u64 %rd1, [count_0];
  cvta.to.global.u64 %rd2, %rd1;
  ld.global.u64 %rd3, [counter];
  add.s64 %rd4, %rd3, 1;
  st.global.u64 [counter], %rd4;
  st.global.u64 [%rd2], %rd4;
  ret;
}
)ptx";

}  // namespace softgpu_test
