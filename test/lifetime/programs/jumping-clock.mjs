// --import: the wall clock jumps a day back and forth at every look.
const now = Date.now;
let looks = 0;
Date.now = () => now() + (looks++ % 2 === 0 ? 1 : -1) * 86_400_000;
