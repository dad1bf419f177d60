import process from "node:process";

/** Calls the function with each key that is pressed. Returns what ends this. */
export function onKey(callback: (key: string) => void): () => void {
  const { stdin } = process;
  if (!stdin.isTTY) return () => {};
  const listener = (data: Uint8Array) => {
    const text = new TextDecoder().decode(data);
    // Special keys are sequences of characters; of others, several can come.
    if (text.startsWith("\x1b")) callback(text);
    else [...text].forEach(callback);
  };
  stdin.setRawMode(true);
  stdin.on("data", listener);
  return () => {
    stdin.off("data", listener);
    stdin.setRawMode(false);
    stdin.pause();
  };
}
