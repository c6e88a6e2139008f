-- Empty a channel's stream and say so to every worker that is subscribed. Epoch and offset stay: nobody is at a wrong position.
--
-- KEYS  meta, stream
-- ARGV  fresh (not used: an old lineage cannot make emptying wrong), channel (name of the channel's pub/sub), time
-- Gives 1 when there was something to remove, else 0.

local meta = redis.call('HMGET', KEYS[1], 'epoch', 'offset')
local removed = redis.call('DEL', KEYS[2])
redis.call('PUBLISH', ARGV[2], '1r:' .. (meta[1] or '') .. ':' .. (meta[2] or '0') .. ':' .. ARGV[3] .. ':')
return removed
