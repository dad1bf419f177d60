import process from "node:process";

/** Calls the function with each key that is pressed. Returns what ends this. */
export function onKey(callback: (key: string) => void): () => void {
  const { stdin } = process;
  if (!stdin.isTTY) return () => {};
  const listener = (data: Uint8Array) => {
    // Several keys can come at once; special ones are sequences of characters.
    const [plain, ...escaped] = new TextDecoder().decode(data).split("\x1b");
    [...plain].forEach(callback);
    for (const sequence of escaped) {
      callback(`\x1b${sequence.slice(0, 2)}`);
      [...sequence.slice(2)].forEach(callback);
    }
  };
  stdin.setRawMode(true);
  stdin.on("data", listener);
  return () => {
    stdin.off("data", listener);
    stdin.setRawMode(false);
    stdin.pause();
  };
}
