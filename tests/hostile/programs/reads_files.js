// expect: failed
// Files of this machine, other solutions, other processes.
const fs = require("fs");
const holds = (path) => fs.statSync(path).isFile() || fs.readdirSync(path).length > 0;
const shown = (path) => fs.existsSync(path) && holds(path);
const places = ["/home", "/root", "/var", "/run", "/sys", "/etc/passwd", "/etc/ssh", "PROJECT"];
const numbers = fs.readdirSync("/proc").filter((name) => /^\d+$/.test(name));
if (places.some(shown)) process.exit(0);
if (fs.readdirSync("/tmp").join() !== "main.js" || numbers.length > 3) process.exit(0);
for (const number of numbers)
  try {
    for (const name of fs.readdirSync(`/proc/${number}/root`))
      if (name === "home" || name === "var") process.exit(0);
  } catch (error) {}
process.exit(1);
