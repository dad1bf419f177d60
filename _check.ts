/**
 * Checks an option of an inbox that counts something.
 *
 * @throws {TypeError} If it is no number
 * @throws {RangeError} If it is no integer of at least `least`
 */
export function checkCount(name: string, value: unknown, least: number): void {
  if (typeof value !== "number") {
    const received = typeof value === "string" ? JSON.stringify(value) : value;
    throw new TypeError(
      `Cannot create inbox: ${name} must be a number: received ${received}`,
    );
  }
  if (Number.isInteger(value) && value >= least) return;
  throw new RangeError(
    `Cannot create inbox: ${name} must be an integer of at least ${least}: received ${value}`,
  );
}
