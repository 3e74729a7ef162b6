# The app of tests/chaos in Ruby; README.md lists what it answers.
class Pieces
  def initialize(body)
    @body = body
  end

  def each
    (0...@body.bytesize).step(8192) { |at| yield @body.byteslice(at, 8192) }
  end
end

run(lambda do |env|
  name, number = env['QUERY_STRING'].split('&')
  number = number.to_i
  headers = { 'content-type' => 'text/plain' }
  line = "#{name}\n"
  case env['PATH_INFO']
  when '/once'
    body = env['rack.input'].read
    File.open('posts.log', 'a') { |log| log.write(line) }
  when '/generation'
    body = ENV['CHAOS_GENERATION'].to_s
  when '/slow'
    sleep(number / 1000.0)
    body = line
  else
    body = (line * (number / line.bytesize + 1)).byteslice(0, number)
    next [200, headers, Pieces.new(body)] if env['PATH_INFO'] == '/stream'
  end
  [200, headers.merge('content-length' => body.bytesize.to_s), [body]]
end)
