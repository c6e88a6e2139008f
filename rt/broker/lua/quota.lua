-- Take tokens out of a bucket that all workers share.
--
-- KEYS  bucket     "<tokens that are missing> <the store's time then, in microseconds>"; gone when it is full again
-- ARGV  fresh      (not used: a bucket has no history that could fork)
--       rate       tokens that come in a second
--       capacity   tokens that it holds
--       wanted     how many are asked for
--       debt       1: take all of them, also those that are not there
-- Gives how many were taken, and in how many microseconds the next one will be there (0: it is).
--
-- The time is the store's, so that the clocks of hosts do not count. Where it was set back tokens come from now on, none
-- for the time between; where it was set forward the bucket is full. What is missing is kept as tokens, not as time:
-- another rate changes no more than how fast they come back.

local rate, capacity, wanted = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

local missing, set_back = 0, false
local kept = redis.call('GET', KEYS[1])
if kept then
    local before, at = string.match(kept, '^(%S+) (%d+)$')
    local since = now - tonumber(at or now)
    missing = math.max(tonumber(before or '0') - math.max(since, 0) / 1000000 * rate, 0)
    set_back = since < 0
end

-- What sums of numbers with decimals may be off by is given.
local taken = math.max(math.min(wanted, math.floor(capacity - missing + 0.000001)), 0)
if ARGV[5] == '1' then
    taken = wanted
end
if taken > 0 or set_back then
    missing = missing + taken
    local life = math.ceil(missing / rate * 1000) + 1000
    redis.call('SET', KEYS[1], string.format('%.6f %d', missing, now), 'PX', string.format('%d', math.min(life, 31536000000)))
end
return {taken, math.ceil(math.max(missing + 1 - capacity, 0) / rate * 1000000)}
