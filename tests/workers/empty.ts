// A worker file without a bot.
export {};
