// expect: too costly to judge
const fs = require("fs");
for (let i = 0; i < 64; i++) fs.writeSync(2, "x".repeat(2 ** 15));
