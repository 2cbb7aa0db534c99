; dxil.ll: the operations of DXIL that the crate's shaders use, as functions of LLVM: with this and dxil.cpp, a CPU runs what DXC made.
; Results of several values are why this is no C++: how it would return them is not how LLVM's text does. Handles are whole numbers
; here, so that the text suits every version of LLVM.

%dx.types.Handle = type { i64 }
%dx.types.CBufRet.i32 = type { i32, i32, i32, i32 }
%dx.types.ResRet.i32 = type { i32, i32, i32, i32, i32 }

declare i64 @cpu_handle(i32, i32)
declare i32 @cpu_load(i64, i32)
declare void @cpu_store(i64, i32, i32)
declare i32 @cpu_atomic(i64, i32, i32, i32)
declare i32 @cpu_group(i32)
declare i32 @cpu_local()
declare void @cpu_barrier()
declare i32 @llvm.ctlz.i32(i32, i1)
declare float @llvm.maxnum.f32(float, float)
declare float @llvm.minnum.f32(float, float)
declare float @llvm.fabs.f32(float)
declare i32 @cpu_unknown(i32)

define %dx.types.Handle @dx.op.createHandle(i32 %op, i8 %class, i32 %range, i32 %register, i1 %differs) {
  %kind = zext i8 %class to i32
  %number = call i64 @cpu_handle(i32 %kind, i32 %register)
  %handle = insertvalue %dx.types.Handle undef, i64 %number, 0
  ret %dx.types.Handle %handle
}

; A row of 16 bytes of a uniform buffer.
define %dx.types.CBufRet.i32 @dx.op.cbufferLoadLegacy.i32(i32 %op, %dx.types.Handle %handle, i32 %row) {
  %number = extractvalue %dx.types.Handle %handle, 0
  %at0 = shl i32 %row, 4
  %at1 = add i32 %at0, 4
  %at2 = add i32 %at0, 8
  %at3 = add i32 %at0, 12
  %v0 = call i32 @cpu_load(i64 %number, i32 %at0)
  %v1 = call i32 @cpu_load(i64 %number, i32 %at1)
  %v2 = call i32 @cpu_load(i64 %number, i32 %at2)
  %v3 = call i32 @cpu_load(i64 %number, i32 %at3)
  %r0 = insertvalue %dx.types.CBufRet.i32 undef, i32 %v0, 0
  %r1 = insertvalue %dx.types.CBufRet.i32 %r0, i32 %v1, 1
  %r2 = insertvalue %dx.types.CBufRet.i32 %r1, i32 %v2, 2
  %r3 = insertvalue %dx.types.CBufRet.i32 %r2, i32 %v3, 3
  ret %dx.types.CBufRet.i32 %r3
}

; Four words from a byte on.
define %dx.types.ResRet.i32 @dx.op.bufferLoad.i32(i32 %op, %dx.types.Handle %handle, i32 %at0, i32 %unused) {
  %number = extractvalue %dx.types.Handle %handle, 0
  %at1 = add i32 %at0, 4
  %at2 = add i32 %at0, 8
  %at3 = add i32 %at0, 12
  %v0 = call i32 @cpu_load(i64 %number, i32 %at0)
  %v1 = call i32 @cpu_load(i64 %number, i32 %at1)
  %v2 = call i32 @cpu_load(i64 %number, i32 %at2)
  %v3 = call i32 @cpu_load(i64 %number, i32 %at3)
  %r0 = insertvalue %dx.types.ResRet.i32 undef, i32 %v0, 0
  %r1 = insertvalue %dx.types.ResRet.i32 %r0, i32 %v1, 1
  %r2 = insertvalue %dx.types.ResRet.i32 %r1, i32 %v2, 2
  %r3 = insertvalue %dx.types.ResRet.i32 %r2, i32 %v3, 3
  ret %dx.types.ResRet.i32 %r3
}

; As many words as the mask has bits: its lowest.
define void @dx.op.bufferStore.i32(i32 %op, %dx.types.Handle %handle, i32 %at0, i32 %unused, i32 %v0, i32 %v1, i32 %v2, i32 %v3, i8 %mask) {
  %number = extractvalue %dx.types.Handle %handle, 0
  call void @cpu_store(i64 %number, i32 %at0, i32 %v0)
  %two = icmp uge i8 %mask, 3
  br i1 %two, label %second, label %end
second:
  %at1 = add i32 %at0, 4
  call void @cpu_store(i64 %number, i32 %at1, i32 %v1)
  %three = icmp uge i8 %mask, 7
  br i1 %three, label %third, label %end
third:
  %at2 = add i32 %at0, 8
  call void @cpu_store(i64 %number, i32 %at2, i32 %v2)
  %four = icmp uge i8 %mask, 15
  br i1 %four, label %fourth, label %end
fourth:
  %at3 = add i32 %at0, 12
  call void @cpu_store(i64 %number, i32 %at3, i32 %v3)
  br label %end
end:
  ret void
}

define i32 @dx.op.atomicBinOp.i32(i32 %op, %dx.types.Handle %handle, i32 %what, i32 %at, i32 %unused, i32 %unused_too, i32 %value) {
  %number = extractvalue %dx.types.Handle %handle, 0
  %old = call i32 @cpu_atomic(i64 %number, i32 %what, i32 %at, i32 %value)
  ret i32 %old
}

define i32 @dx.op.groupId.i32(i32 %op, i32 %axis) {
  %at = call i32 @cpu_group(i32 %axis)
  ret i32 %at
}

define i32 @dx.op.flattenedThreadIdInGroup.i32(i32 %op) {
  %local = call i32 @cpu_local()
  ret i32 %local
}

define void @dx.op.barrier(i32 %op, i32 %mode) {
  call void @cpu_barrier()
  ret void
}

; FirstbitHi: bits above the highest that is set, all ones where none is.
define i32 @dx.op.unaryBits.i32(i32 %op, i32 %value) {
  %known = icmp eq i32 %op, 33
  br i1 %known, label %count, label %unknown
count:
  %zeros = call i32 @llvm.ctlz.i32(i32 %value, i1 false)
  %none = icmp eq i32 %value, 0
  %result = select i1 %none, i32 -1, i32 %zeros
  ret i32 %result
unknown:
  %nothing = call i32 @cpu_unknown(i32 %op)
  ret i32 %nothing
}

; IMax, IMin, UMax, UMin.
define i32 @dx.op.binary.i32(i32 %op, i32 %a, i32 %b) {
  switch i32 %op, label %unknown [
    i32 37, label %imax
    i32 38, label %imin
    i32 39, label %umax
    i32 40, label %umin
  ]
imax:
  %above = icmp sgt i32 %a, %b
  %r0 = select i1 %above, i32 %a, i32 %b
  ret i32 %r0
imin:
  %below = icmp slt i32 %a, %b
  %r1 = select i1 %below, i32 %a, i32 %b
  ret i32 %r1
umax:
  %more = icmp ugt i32 %a, %b
  %r2 = select i1 %more, i32 %a, i32 %b
  ret i32 %r2
umin:
  %less = icmp ult i32 %a, %b
  %r3 = select i1 %less, i32 %a, i32 %b
  ret i32 %r3
unknown:
  %nothing = call i32 @cpu_unknown(i32 %op)
  ret i32 %nothing
}

; FMax, FMin: of a number and NaN the number.
define float @dx.op.binary.f32(i32 %op, float %a, float %b) {
  switch i32 %op, label %unknown [
    i32 35, label %fmax
    i32 36, label %fmin
  ]
fmax:
  %most = call float @llvm.maxnum.f32(float %a, float %b)
  ret float %most
fmin:
  %least = call float @llvm.minnum.f32(float %a, float %b)
  ret float %least
unknown:
  %nothing = call i32 @cpu_unknown(i32 %op)
  ret float 0.0
}

; FAbs.
define float @dx.op.unary.f32(i32 %op, float %value) {
  %known = icmp eq i32 %op, 6
  br i1 %known, label %abs, label %unknown
abs:
  %magnitude = call float @llvm.fabs.f32(float %value)
  ret float %magnitude
unknown:
  %nothing = call i32 @cpu_unknown(i32 %op)
  ret float 0.0
}
